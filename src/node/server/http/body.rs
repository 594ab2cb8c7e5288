//! Intake of request bodies: bounded in size, time and memory.
//!
//! Most clients read no response before they have sent the whole body. If the server closes the connection, they see a
//! broken pipe in place of the problem. Bytes beyond the bound are therefore read and discarded, up to a second bound.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::server::http::admission::{MemoryReservation, ShedReason};

/// Maximum number of bytes to discard.
const DISCARD_BYTES_MAX: usize = 64 << 20;
/// Maximum silence in the middle of a body.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason for which a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The body is over its bound.
    TooLarge,
    /// The memory budget is used up.
    Shed(ShedReason),
    /// The body stopped arriving.
    Stalled,
    /// The body did not arrive whole.
    Incomplete(String),
}

/// Reads the whole body, if it is within `bound`. Its memory is reserved as it arrives.
pub async fn read(
    headers: &HeaderMap,
    mut body: Body,
    bound: usize,
    reservation: &mut MemoryReservation,
) -> Result<Bytes, BodyError> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // A client that waits for `100 Continue` has sent no body, and one that announces far too much is not waited for.
    let expects_continue = headers.contains_key(header::EXPECT);
    let length_max = bound.saturating_add(DISCARD_BYTES_MAX);
    if declared.is_some_and(|length| length > length_max || (length > bound && expects_continue)) {
        return Err(BodyError::TooLarge);
    }
    let mut received = BytesMut::new();
    let mut seen: usize = 0;
    let mut shed: Option<ShedReason> = None;
    while let Some(frame) = tokio::time::timeout(STALL_TIMEOUT, body.frame())
        .await
        .map_err(|_| BodyError::Stalled)?
    {
        let frame = frame.map_err(|error| BodyError::Incomplete(error.to_string()))?;
        // Trailers carry no meaning here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        seen = seen.saturating_add(data.len());
        if seen > length_max {
            break;
        }
        if seen <= bound && shed.is_none() {
            shed = reservation.grow_to(seen).err();
        }
        if seen <= bound && shed.is_none() {
            received.extend_from_slice(&data);
        } else {
            received = BytesMut::new();
            reservation.release();
        }
    }
    match shed {
        _ if seen > bound => Err(BodyError::TooLarge),
        Some(shed) => Err(BodyError::Shed(shed)),
        None => Ok(received.freeze()),
    }
}

/// Reads and discards a body that no route takes. An unread body would cost the connection its reuse.
pub async fn discard(headers: &HeaderMap, mut body: Body) {
    // A client that waits for `100 Continue` has sent no body.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut seen: usize = 0;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(STALL_TIMEOUT, body.frame()).await {
        seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if seen > DISCARD_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::admission::{AdmissionControl, ServerLimits};

    async fn read_with(
        headers: &[(header::HeaderName, &str)],
        body: &'static str,
    ) -> Result<Bytes, BodyError> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().expect("a header's text")))
            .collect();
        let mut reservation = AdmissionControl::new(&ServerLimits::default())
            .client_bodies()
            .reserve();
        read(&headers, Body::from(body), 4, &mut reservation).await
    }

    #[tokio::test]
    async fn a_body_over_the_memory_budget_is_shed_and_reserves_nothing() {
        let admission = AdmissionControl::new(&ServerLimits {
            body_memory_bytes_max: 8 << 10,
            ..ServerLimits::default()
        });
        let bound = 1 << 20;
        let mut large = admission.client_bodies().reserve();
        let body = Body::from(vec![b' '; 9 << 10]);
        let refused = read(&HeaderMap::new(), body, bound, &mut large).await;
        assert_eq!(refused, Err(BodyError::Shed(ShedReason::Bodies)));
        let mut small = admission.client_bodies().reserve();
        let body = Body::from(vec![b' '; 8 << 10]);
        let taken = read(&HeaderMap::new(), body, bound, &mut small).await;
        assert_eq!(taken.map(|body| body.len()), Ok(8 << 10));
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_bound_is_read() {
        assert_eq!(read_with(&[], "").await, Ok(Bytes::new()));
        assert_eq!(read_with(&[], "1234").await, Ok(Bytes::from("1234")));
        assert_eq!(read_with(&[], "12345").await, Err(BodyError::TooLarge));
    }

    #[tokio::test]
    async fn a_declared_length_can_refuse_a_body_but_not_admit_it() {
        let far_too_long = (header::CONTENT_LENGTH, "999999999999");
        assert_eq!(
            read_with(&[far_too_long], "1234").await,
            Err(BodyError::TooLarge)
        );
        let asked_for = [
            (header::CONTENT_LENGTH, "5"),
            (header::EXPECT, "100-continue"),
        ];
        assert_eq!(
            read_with(&asked_for, "1234").await,
            Err(BodyError::TooLarge)
        );
        assert_eq!(
            read_with(&[(header::CONTENT_LENGTH, "1")], "12345").await,
            Err(BodyError::TooLarge)
        );
    }
}

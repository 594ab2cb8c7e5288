//! Taking a request's body in, within its bound and the room there is.
//!
//! Who sends too much is in the middle of sending, and most clients read no answer before they are done: closing on them
//! shows them a broken pipe in place of the refusal. So what is beyond the bound is read and thrown away, up to a bound
//! of its own.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::server::http::admission::{Share, Shed};

/// What is thrown away at most.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
/// Who sends nothing for so long in the middle of a body is not waited for any more.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is over its bound.
    TooLarge,
    /// There is no room for it at present.
    NoRoom(Shed),
    /// It stopped arriving.
    Stalled,
    /// It did not arrive whole.
    Broken(String),
}

/// Reads the whole body, if it is within `bound`. What it takes in memory is taken from `share` as it arrives.
pub async fn take(
    headers: &HeaderMap,
    mut body: Body,
    bound: usize,
    share: &mut Share,
) -> Result<Bytes, Refused> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // One that waits to be asked for the body has sent none, and one that sends far too much is not waited for.
    let asks_first = headers.contains_key(header::EXPECT);
    let patience = bound.saturating_add(DISCARDED_BYTES_MAX);
    if declared.is_some_and(|length| length > patience || (length > bound && asks_first)) {
        return Err(Refused::TooLarge);
    }
    let mut kept = BytesMut::new();
    let mut seen: usize = 0;
    let mut no_room: Option<Shed> = None;
    while let Some(frame) = tokio::time::timeout(STALL_MAX, body.frame())
        .await
        .map_err(|_| Refused::Stalled)?
    {
        let frame = frame.map_err(|error| Refused::Broken(error.to_string()))?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        seen = seen.saturating_add(data.len());
        if seen > patience {
            break;
        }
        if seen <= bound && no_room.is_none() {
            no_room = share.grow(seen).err();
        }
        if seen <= bound && no_room.is_none() {
            kept.extend_from_slice(&data);
        } else {
            kept = BytesMut::new();
            share.give_back();
        }
    }
    match no_room {
        _ if seen > bound => Err(Refused::TooLarge),
        Some(shed) => Err(Refused::NoRoom(shed)),
        None => Ok(kept.freeze()),
    }
}

/// Reads a body that nobody asked for, and throws it away. Left unread it would cost the connection, and whoever keeps it
/// for the next request would find it closed.
pub async fn discard(headers: &HeaderMap, mut body: Body) {
    // One that waits to be asked for it has sent none.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut seen: usize = 0;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(STALL_MAX, body.frame()).await {
        seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if seen > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::admission::{Bounds, Room};

    async fn taken(
        headers: &[(header::HeaderName, &str)],
        body: &'static str,
    ) -> Result<Bytes, Refused> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().expect("a header's text")))
            .collect();
        let mut share = Room::new(&Bounds::default()).bodies().share();
        take(&headers, Body::from(body), 4, &mut share).await
    }

    #[tokio::test]
    async fn what_finds_no_room_is_refused_and_leaves_none_taken() {
        let room = Room::new(&Bounds {
            bodies_bytes_max: 8 << 10,
            ..Bounds::default()
        });
        let bound = 1 << 20;
        let mut large = room.bodies().share();
        let body = Body::from(vec![b' '; 9 << 10]);
        let refused = take(&HeaderMap::new(), body, bound, &mut large).await;
        assert_eq!(refused, Err(Refused::NoRoom(Shed::Bodies)));
        let mut small = room.bodies().share();
        let body = Body::from(vec![b' '; 8 << 10]);
        let taken = take(&HeaderMap::new(), body, bound, &mut small).await;
        assert_eq!(taken.map(|body| body.len()), Ok(8 << 10));
    }

    #[tokio::test]
    async fn the_bound_is_within_it() {
        assert_eq!(taken(&[], "").await, Ok(Bytes::new()));
        assert_eq!(taken(&[], "1234").await, Ok(Bytes::from("1234")));
        assert_eq!(taken(&[], "12345").await, Err(Refused::TooLarge));
    }

    #[tokio::test]
    async fn what_is_declared_is_only_believed_to_refuse() {
        let far_too_long = (header::CONTENT_LENGTH, "999999999999");
        assert_eq!(taken(&[far_too_long], "1234").await, Err(Refused::TooLarge));
        let asked_for = [
            (header::CONTENT_LENGTH, "5"),
            (header::EXPECT, "100-continue"),
        ];
        assert_eq!(taken(&asked_for, "1234").await, Err(Refused::TooLarge));
        assert_eq!(
            taken(&[(header::CONTENT_LENGTH, "1")], "12345").await,
            Err(Refused::TooLarge)
        );
    }
}

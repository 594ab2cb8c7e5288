//! Taking a request's body in, within its bound.
//!
//! Who sends too much is in the middle of sending, and most clients read no answer before they are done: closing on them
//! shows them a broken pipe in place of the refusal. So what is beyond the bound is read and thrown away, up to a bound
//! of its own.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

/// What is thrown away at most.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is over its bound.
    TooLarge,
    /// It did not arrive whole.
    Broken(String),
}

/// Reads the whole body, if it is within `bound`.
pub async fn take(headers: &HeaderMap, mut body: Body, bound: usize) -> Result<Bytes, Refused> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // One that waits to be asked for the body has sent none, and one that sends far too much is not waited for.
    let asks_first = headers.contains_key(header::EXPECT);
    let patience = bound.saturating_add(DISCARDED_BYTES_MAX);
    if declared.is_some_and(|length| length > patience || (length > bound && asks_first)) {
        return Err(Refused::TooLarge);
    }
    let mut kept = BytesMut::with_capacity(declared.unwrap_or(0).min(bound));
    let mut seen: usize = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refused::Broken(error.to_string()))?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        seen = seen.saturating_add(data.len());
        if seen <= bound {
            kept.extend_from_slice(&data);
        } else if seen > patience {
            break;
        } else {
            kept = BytesMut::new();
        }
    }
    if seen > bound {
        return Err(Refused::TooLarge);
    }
    Ok(kept.freeze())
}

/// Reads a body that nobody asked for, and throws it away. Left unread it would cost the connection, and whoever keeps it
/// for the next request would find it closed.
pub async fn discard(headers: &HeaderMap, mut body: Body) {
    // One that waits to be asked for it has sent none.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut seen: usize = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if seen > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn taken(
        headers: &[(header::HeaderName, &str)],
        body: &'static str,
    ) -> Result<Bytes, Refused> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().expect("a header's text")))
            .collect();
        take(&headers, Body::from(body), 4).await
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

//! Checks that keep a request from having two meanings, for every route.
//!
//! # Rules
//!
//! - No path segment is `.` or `..`, percent-encoded or not. Many clients resolve such segments before they send a
//!   request, and others do not, so they would reach different routes.
//! - A header of this interface (`triarch-*`) has one value.
//! - A body is not compressed, because no route decodes one.
//!
//! Sources: RFC 3986 section 5.2.4 (dot segments), the URL standard (percent-encoded dot segments), RFC 9110 sections 8.4
//! and 15.5.16 (`Content-Encoding`, `415`).

use axum::http::{HeaderMap, Uri, header};

use crate::server::protocol::headers::OWN_HEADER_PREFIX;
use crate::server::protocol::problem::{Code, Problem};

/// Refuses a request that breaks one of the rules above.
pub fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    check_path(uri.path())?;
    check_own_headers(headers)?;
    check_content_encoding(headers)
}

/// Returns whether a URL parser takes the segment for the current or the parent directory.
fn is_dot_segment(segment: &str) -> bool {
    // The longest spelling is `%2e%2e`.
    segment.len() <= 6
        && segment.starts_with(['.', '%'])
        && matches!(
            segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
            "." | ".."
        )
}

fn check_path(path: &str) -> Result<(), Problem> {
    if path.split('/').any(is_dot_segment) {
        return Err(Problem::invalid(
            "path",
            "the path has a segment \".\" or \"..\"; nothing can have that name, because many clients resolve it before they \
             send a request",
        ));
    }
    Ok(())
}

fn check_own_headers(headers: &HeaderMap) -> Result<(), Problem> {
    for name in headers.keys() {
        if !name.as_str().starts_with(OWN_HEADER_PREFIX) {
            continue;
        }
        let mut values = headers.get_all(name).iter();
        let first = values.next();
        if values.any(|other| Some(other) != first) {
            return Err(Problem::invalid(
                name.as_str(),
                format!("the request has the header {name} with different values; send it once"),
            ));
        }
    }
    Ok(())
}

fn check_content_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let plain = |value: &header::HeaderValue| {
        value.to_str().is_ok_and(|text| {
            text.trim().is_empty() || text.trim().eq_ignore_ascii_case("identity")
        })
    };
    if headers.get_all(header::CONTENT_ENCODING).iter().all(plain) {
        return Ok(());
    }
    Err(Problem::new(
        Code::UnsupportedMediaType,
        "the body is compressed, as its Content-Encoding header says, and no route decodes one; send it uncompressed",
    ))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn refused(path: &str, pairs: &[(&'static str, &'static str)]) -> Option<Code> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let uri: Uri = path.parse().expect("a path");
        check(&uri, &headers).err().map(|problem| problem.code())
    }

    #[test]
    fn dot_segments_are_refused_in_every_spelling() {
        for path in [
            "/v1/queues/.",
            "/v1/queues/..",
            "/v1/queues/%2e/pause",
            "/v1/queues/%2E%2e/pause",
            "/v1/queues/.%2e",
            "/v1/queues/%2E.?limit=5",
            "/../v1/jobs",
            "/./",
        ] {
            assert_eq!(refused(path, &[]), Some(Code::InvalidRequest), "{path}");
        }
        for path in [
            "/v1/queues/...",
            "/v1/queues/.a",
            "/v1/queues/a.b",
            "/v1/queues/%2e%2e%2e",
            "/v1/queues/%252e",
            "/v1/queues/a%2F..%2Fb",
            "/v1/queues/x\\..\\y",
            "/v1/jobs?after=..",
            "*",
        ] {
            assert_eq!(refused(path, &[]), None, "{path}");
        }
    }

    #[test]
    fn an_own_header_has_one_value() {
        let id = "triarch-request-id";
        assert_eq!(
            refused("/", &[(id, "a"), (id, "b")]),
            Some(Code::InvalidRequest)
        );
        assert_eq!(refused("/", &[(id, "a"), (id, "a")]), None);
        assert_eq!(refused("/", &[("accept", "a"), ("accept", "b")]), None);
    }

    #[test]
    fn a_compressed_body_is_refused() {
        let name = "content-encoding";
        for value in ["gzip", "br", "identity, gzip", "zstd"] {
            let code = refused("/", &[(name, value)]);
            assert_eq!(code, Some(Code::UnsupportedMediaType), "{value}");
        }
        assert_eq!(refused("/", &[(name, "identity")]), None);
    }
}

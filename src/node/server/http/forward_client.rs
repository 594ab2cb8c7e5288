//! HTTP client of the reverse proxy: sends a request to another node under the very path and query that arrived.
//!
//! A client that parses a URL normalizes it: it resolves dot segments, also percent-encoded ones, and takes a backslash
//! for a slash. The leader would then match another route than this node did. So the target is never parsed here.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::uri::{Authority, PathAndQuery, Scheme};
use axum::http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Maximum time to connect to another node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum idle time of a pooled connection. Shorter than a node's own idle timeout, so that a pooled connection is not
/// closed by the other end at the moment of a request.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Client for requests to other nodes. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct ForwardClient(Client<HttpConnector, Full<Bytes>>);

/// Request as it is sent to another node.
#[derive(Debug)]
pub struct ForwardedRequest {
    /// Method, as it arrived.
    pub method: Method,
    /// Path and query, as they arrived.
    pub path: PathAndQuery,
    /// Headers for the other node.
    pub headers: HeaderMap,
    /// Body, as it arrived.
    pub body: Bytes,
}

/// Reason for which a request got no response.
#[derive(Debug, PartialEq, Eq)]
pub enum ForwardFailure {
    /// There was no connection, so nothing was sent.
    NotSent(String),
    /// The connection broke, so the request may have been executed.
    Broken(String),
}

impl ForwardClient {
    /// Creates a client without connections.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self(client)
    }

    /// Sends a request to the node at `addr` (`HOST:PORT`).
    ///
    /// # Errors
    ///
    /// Fails without a response. The caller bounds the time.
    pub async fn send(
        &self,
        addr: &str,
        request: ForwardedRequest,
    ) -> Result<Response<Incoming>, ForwardFailure> {
        let outgoing =
            outgoing(addr, request).map_err(|why| ForwardFailure::NotSent(why.to_string()))?;
        self.0.request(outgoing).await.map_err(|error| {
            let why = root_cause(&error);
            match error.is_connect() {
                true => ForwardFailure::NotSent(why),
                false => ForwardFailure::Broken(why),
            }
        })
    }
}

impl Default for ForwardClient {
    fn default() -> Self {
        Self::new()
    }
}

fn outgoing(
    addr: &str,
    request: ForwardedRequest,
) -> Result<Request<Full<Bytes>>, axum::http::Error> {
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(addr.parse::<Authority>()?)
        .path_and_query(request.path)
        .build()?;
    let mut outgoing = Request::builder()
        .method(request.method)
        .uri(uri)
        .body(Full::new(request.body))?;
    *outgoing.headers_mut() = request.headers;
    Ok(outgoing)
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_sent_byte_for_byte() {
        for path in [
            "/v1/tasks/%2e/cancel",
            "/v1/schedules/x\\..\\..\\cluster\\nodes\\1",
            "/v1/queues/a%2Fb/../c/./d;e=1?limit=5&after=%2E%2e",
            "//v1//jobs",
            "/%ff%00",
        ] {
            let path_and_query: PathAndQuery = path.parse().expect("a path");
            let request = ForwardedRequest {
                method: Method::GET,
                path: path_and_query,
                headers: HeaderMap::new(),
                body: Bytes::new(),
            };
            let sent = outgoing("[::1]:7101", request).expect("a request");
            let target = sent.uri().path_and_query().map(PathAndQuery::as_str);
            assert_eq!(target, Some(path));
            assert_eq!(
                sent.uri().authority().map(Authority::as_str),
                Some("[::1]:7101")
            );
        }
    }
}

//! Header names of the HTTP interface.

use axum::http::HeaderName;

/// Idempotency id of a change. It is the same over all retries.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("triarch-request-id");
/// Secret of the worker in whose name a call is made.
pub const WORKER_SECRET: HeaderName = HeaderName::from_static("triarch-worker-secret");
/// Node that forwarded the request.
pub const FORWARDED_BY: HeaderName = HeaderName::from_static("triarch-forwarded-by");
/// Request header whose value `never` asks for a redirect to the leader instead of forwarding.
pub const FORWARD: HeaderName = HeaderName::from_static("triarch-forward");
/// Leader's node id, on a redirect.
pub const LEADER: HeaderName = HeaderName::from_static("triarch-leader");
/// Value `stale`, on a response that may be stale.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("triarch-consistency");
/// Log index whose state the response shows, on every response.
pub const INDEX: HeaderName = HeaderName::from_static("triarch-index");
/// Minimum log index that the answering node must have applied, on a read.
pub const MIN_INDEX: HeaderName = HeaderName::from_static("triarch-min-index");
/// Value `no`, on a `503` between nodes: the request was certainly not executed, so another node may be asked.
pub const EXECUTED: HeaderName = HeaderName::from_static("triarch-executed");
/// Prefix of the headers of this interface. A browser sends such a header across sites only after a preflight.
pub const OWN_HEADER_PREFIX: &str = "triarch-";
/// Value `no`, on a stream: a reverse proxy must pass on each part at once (nginx and others read it).
pub const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Address of the client, on a forwarded request.
pub const CLIENT: HeaderName = HeaderName::from_static("triarch-client");

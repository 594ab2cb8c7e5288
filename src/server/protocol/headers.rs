//! Header names of the HTTP interface.

use axum::http::HeaderName;

/// On a change: its idempotency id, the same over all of its retries.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("triarch-request-id");
/// On a forwarded request: the node that forwarded it.
pub const FORWARDED_BY: HeaderName = HeaderName::from_static("triarch-forwarded-by");
/// On a request: `never` asks for a redirect to the leader instead of forwarding.
pub const FORWARD: HeaderName = HeaderName::from_static("triarch-forward");
/// On a redirect: the leader's node id.
pub const LEADER: HeaderName = HeaderName::from_static("triarch-leader");
/// On a response that may be stale: `stale`.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("triarch-consistency");
/// On every response: the log index it stands for.
pub const INDEX: HeaderName = HeaderName::from_static("triarch-index");
/// On a read: the log index that the answering node must have applied.
pub const MIN_INDEX: HeaderName = HeaderName::from_static("triarch-min-index");

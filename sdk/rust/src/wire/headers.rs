//! Names of the HTTP headers that Triarch defines. All are lower case, because HTTP libraries require that.

/// Response header: id of the leader, to which a redirect points.
pub const LEADER: &str = "triarch-leader";
/// Request header: `never` asks a follower for a redirect instead of forwarding.
pub const FORWARD: &str = "triarch-forward";
/// Response header: log index that the response reflects.
pub const INDEX: &str = "triarch-index";
/// Request header: wait until the responding node has applied this log index.
pub const MIN_INDEX: &str = "triarch-min-index";
/// Request header: id of one logical change, the same over all its retries, so that it is applied once.
pub const REQUEST_ID: &str = "triarch-request-id";
/// Secret of the worker in whose name a call is made.
pub const WORKER_SECRET: &str = "triarch-worker-secret";

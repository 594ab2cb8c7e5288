//! Names of the headers that carry meaning of their own. All lower case, as HTTP libraries want them.

/// Answer: id of the node that leads, where a redirect points.
pub const LEADER: &str = "triarch-leader";
/// Request: `never` asks for a redirect where a follower would forward.
pub const FORWARD: &str = "triarch-forward";
/// Answer: log index the answer reflects.
pub const INDEX: &str = "triarch-index";
/// Request: wait until the answering node has applied this log index.
pub const MIN_INDEX: &str = "triarch-min-index";
/// Request: names one logical change; the same over all retries of it, so that it happens once.
pub const REQUEST_ID: &str = "triarch-request-id";

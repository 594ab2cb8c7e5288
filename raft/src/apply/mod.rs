//! Apply: committed entries to the state machine, and its snapshots.

pub(crate) mod applier;
pub(crate) mod snapshot_policy;
pub(crate) mod used_node_ids;

//! Leadership as this node knows it: its role, its last contact with the leader, and why leadership changed.

pub(crate) mod append_reach;
pub(crate) mod catch_up;
pub(crate) mod change_reason;
pub(crate) mod role;

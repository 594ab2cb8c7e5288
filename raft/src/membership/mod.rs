//! Membership: bootstrap of a cluster, and later changes to it, one at a time and each by the leader.

pub(crate) mod bootstrap;
pub(crate) mod changes;
pub(crate) mod hello;
pub(crate) mod senders;

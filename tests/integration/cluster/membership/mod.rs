//! Membership changes, and the checks of identity at the start of a master.

mod hostile_peers;
pub mod identity;
pub mod member_changes;
mod removed_master;

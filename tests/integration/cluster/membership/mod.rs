//! Membership changes, and the checks of identity at the start of a master.

pub mod identity;
pub mod member_changes;

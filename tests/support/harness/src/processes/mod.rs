//! Processes of the program under test, and the addresses that they listen on.

pub mod addresses;
pub mod binary;
pub mod cluster_permit;
pub mod command;
pub mod process;
pub mod program;

//! Consensus: a replicated log of opaque commands, and the only crate that names openraft.
//!
//! It knows no tasks. The binary gives it a [`StateMachine`] and proposes bytes; it gives back the machine's replies once
//! the command is committed on a quorum of fsynced logs and applied here.

pub mod error;
pub mod machine;
pub mod status;

pub use error::{ChangeError, ProposeError, ReadError, StartError};
pub use machine::{EntryView, Frozen, StateMachine};
pub use status::{Leadership, NodeStatus, PeerRole, PeerState, Status};

//! Consensus: a replicated log of opaque commands, and the only crate that names openraft.
//!
//! It knows no tasks. The binary gives it a [`StateMachine`] and proposes bytes; it gives back the machine's replies once
//! the command is committed on a quorum of fsynced logs and applied here.
//!
//! | module | what it is for |
//! |---|---|
//! | `node` | what the program holds: [`Node`] |
//! | `propose`, `read` | many proposals in one entry; many reads in one round of confirmation |
//! | `standing`, `observe`, `cause`, `watch` | who leads, since when and why; noticing at once that a leader's process is gone |
//! | `measures` | what operators are told in numbers |
//! | `formation`, `change` | how a cluster comes about; nodes in and out, leadership from one to another |
//! | `log_store`, `apply`, `snapshot`, `entry` | storage and state machine as openraft wants them; the log's formats |
//! | `room`, `keeper` | disks that are nearly full: what is refused, and what is done about it |
//! | `network`, `transport`, `routes`, `wire`, `identity` | messages between nodes, out and in; who may speak to whom |

#[macro_use]
mod mutated;

mod agreement;
mod apply;
pub mod background;
mod cause;
mod change;
pub mod clocks;
pub mod config;
mod disk;
mod engine;
mod entry;
pub mod error;
mod failure;
mod finish;
mod formation;
/// For `fuzz/` alone.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod growth;
mod identity;
mod keeper;
mod log_store;
pub mod machine;
mod measures;
/// For `tests/micro` alone.
#[cfg(feature = "measuring")]
#[doc(hidden)]
pub mod measuring;
mod network;
mod node;
mod observe;
mod overlap;
mod propose;
mod read;
mod report;
mod rider;
mod room;
mod roster;
mod routes;
mod snapshot;
mod snapshot_send;
mod standing;
pub mod status;
#[cfg(test)]
mod suite;
mod transport;
mod types;
mod watch;
mod wire;
mod write;

pub use agreement::{AgreementStatus, Checkpoint};
pub use cause::{CauseKind, HandOverReason};
pub use config::{Formation, Limits, NodeConfig, SnapshotPolicy, Timing};
pub use error::{ChangeError, ProposeError, ReadError, StartError};
pub use machine::{EntryView, Frozen, StateMachine};
pub use measures::{Measures, ProposalRefusal};
pub use node::Node;
pub use propose::Committed;
pub use rider::{Dispatcher, Rider};
pub use snapshot::WrittenSnapshot;
pub use status::{
    DiskStatus, Leadership, NodeStatus, PeerRole, PeerState, SnapshotTransfer, Status,
};
pub use triarch_storage::{Histogram, Reading};

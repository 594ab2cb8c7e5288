//! Consensus: a replicated log of opaque commands, and the only crate that names openraft.
//!
//! It knows no tasks. The binary gives it a [`StateMachine`] and proposes bytes; it gives back the machine's replies once
//! the command is committed on a quorum of fsynced logs and applied here.
//!
//! | module | what it is for |
//! |---|---|
//! | `node` | what the program holds: [`Node`]; how it is put together, and what peers ask of it |
//! | `tasks` | loops in the background: who leads, noticing that a leader's process is gone, low disks, divergence, clocks |
//! | `membership` | how a cluster comes about; nodes in and out, leadership from one to another |
//! | `proposals` | many proposals in one entry; many reads in one round of confirmation |
//! | `apply` | the state machine as openraft wants it |
//! | `network` | messages to other nodes |
//! | `storage` | the log, snapshots and room on the disk |
//! | `protocol` | formats of the log and of messages; who may speak to whom |
//! | `leadership` | who leads, and why that changed |
//! | `metrics` | what operators are told in numbers |

#[macro_use]
mod mutated;

mod apply;
pub mod config;
pub mod error;
mod fatal;
mod leadership;
pub mod low_priority;
mod membership;
mod metrics;
mod network;
mod node;
mod openraft_config;
pub mod peer_clocks;
mod proposals;
mod protocol;
pub mod state_machine;
pub mod status;
mod storage;
mod tasks;
/// Test support. Not compiled into the product.
#[cfg(any(test, feature = "fuzzing", feature = "measuring"))]
#[doc(hidden)]
pub mod testing;
mod types;

pub use crate::leadership::change_reason::{LeaderChangeKind, TransferReason};
pub use crate::metrics::{ConsensusMetrics, ProposalRefusal};
pub use crate::node::handle::Node;
pub use crate::proposals::committed::Committed;
pub use crate::proposals::options::{Priority, ProposeOptions};
pub use crate::proposals::piggyback::{PiggybackDispatcher, PiggybackedCommand};
pub use crate::state_machine::{EntryView, Frozen, StateMachine};
pub use crate::storage::snapshot_store::WrittenSnapshot;
pub use crate::tasks::divergence_check::{Checkpoint, ConsistencyStatus};
pub use config::{BootstrapMode, Limits, NodeConfig, SnapshotPolicy, Timing};
pub use error::{ChangeError, ProposeError, ReadError, StartError};
pub use status::{
    DiskStatus, Leadership, NodeStatus, PeerRole, PeerState, SnapshotTransfer, Status,
};
pub use triarch_storage::{Histogram, HistogramSnapshot};

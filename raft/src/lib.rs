//! Consensus: a replicated log of opaque commands, and the only crate that names openraft.
//!
//! The crate knows no tasks. The binary passes in a [`StateMachine`] and proposes bytes. The crate returns the
//! machine's replies once the command is committed on a quorum of fsynced logs and applied here.
//!
//! # Modules
//!
//! The rows are ordered from the top down. A module imports only from the rows below its own, and there is no circle
//! among files or folders.
//!
//! | module | purpose |
//! |---|---|
//! | `node` | the handle [`Node`], its assembly at start, the server for peers, status |
//! | `tasks` | background loops: leadership observer, failure detector, disk pressure, membership reconciler, clocks, divergence check |
//! | `membership`, `proposals` | bootstrap and membership changes; proposals with group commit, piggybacked commands, read index |
//! | `apply`, `network` | committed entries to the state machine; messages to peers |
//! | `storage` | the data directory, the log, snapshots, free disk space |
//! | `protocol`, `metrics`, `openraft_config` | formats of entries and messages, identity check; counters; openraft's settings |
//! | `leadership`, [`config`] | role of this node, contact with the leader, reasons of leader changes; configuration |
//! | [`error`], [`status`], [`state_machine`], [`peer_clocks`], [`low_priority`], `fatal`, `types` | types and functions that import nothing of this crate |

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
pub use triarch_storage::contained_panic;
pub use triarch_storage::{Histogram, HistogramSnapshot};

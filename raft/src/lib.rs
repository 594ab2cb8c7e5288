//! Consensus: a replicated log of opaque commands, and the only crate that names openraft.
//!
//! The crate knows no tasks. The binary passes in a [`StateMachine`] and proposes bytes. The crate returns the
//! machine's replies once the command is committed on a quorum of fsynced logs and applied here.
//!
//! # Example
//!
//! A replicated counter on one node of three:
//!
//! ```no_run
//! use std::collections::BTreeMap;
//! use std::io::{self, Read, Write};
//! use std::sync::Arc;
//! use std::time::{SystemTime, UNIX_EPOCH};
//!
//! use triarch_raft::{BootstrapMode, EntryView, Frozen, Level, Node, NodeConfig, ProposeOptions, StateMachine};
//!
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     type Reply = u64;
//!     type Frozen = Counter;
//!     type Loaded = u64;
//!
//!     fn check_command(command: &[u8]) -> io::Result<()> {
//!         if command == b"add" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
//!     }
//!
//!     fn apply(&mut self, entry: EntryView<'_>) -> io::Result<Vec<u64>> {
//!         Ok(entry.commands.iter().map(|_| { self.0 += 1; self.0 }).collect())
//!     }
//!
//!     fn freeze(&mut self) -> Counter {
//!         Counter(self.0)
//!     }
//!
//!     fn load(snapshot: &mut dyn Read) -> io::Result<u64> {
//!         let mut bytes = [0; 8];
//!         snapshot.read_exact(&mut bytes)?;
//!         Ok(u64::from_le_bytes(bytes))
//!     }
//!
//!     fn restore(&mut self, loaded: u64, _: u64, _: Level) {
//!         self.0 = loaded;
//!     }
//!
//!     // The format of its snapshots never changes.
//!     fn set_level(&mut self, _: Level) {}
//! }
//!
//! impl Frozen for Counter {
//!     fn write(self, out: &mut dyn Write) -> io::Result<()> {
//!         out.write_all(&self.0.to_le_bytes())
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let addresses = BTreeMap::from([1, 2, 3].map(|id| (id, format!("127.0.0.1:710{id}"))));
//! let config = NodeConfig::new(1, addresses[&1].clone(), "/var/lib/counter", BootstrapMode::Static(addresses.clone()));
//! let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
//! let node = Node::start(config, Counter(0), Arc::new(clock)).await?;
//!
//! // Serves the other nodes.
//! let listener = tokio::net::TcpListener::bind(&addresses[&1]).await?;
//! tokio::spawn(axum::serve(listener, node.routes()).into_future());
//!
//! // Returns once the command is on the disks of a quorum and applied here.
//! let committed = node.propose("add".into(), ProposeOptions::default()).await?;
//! println!("entry {}", committed.index);
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! The rows are ordered from the top down. A module imports only from the rows below its own, and there is no circle
//! among files or folders.
//!
//! | module | purpose |
//! |---|---|
//! | `node` | the handle [`Node`], its assembly at start, the server for peers, status |
//! | `tasks` | background loops: leadership observer, readiness monitor, failure detector, disk pressure, membership reconciler, clocks, divergence check |
//! | `membership`, `proposals` | bootstrap, membership changes, lookup of unknown senders; proposals with group commit, piggybacked commands, read index |
//! | `apply`, `network` | committed entries to the state machine; messages to peers |
//! | `storage` | the data directory, the log, snapshots, free disk space |
//! | `protocol`, `metrics`, `openraft_config` | formats of entries and messages, their level, identity check; counters; openraft's settings |
//! | `leadership`, [`config`] | role of this node, contact with the leader, reasons of leader changes; configuration |
//! | [`error`], [`status`], [`state_machine`], [`peer_clocks`], [`low_priority`], `fatal`, `removal`, `node_address`, `types` | types and functions that import at most the next row |
//! | [`level`] | the level of formats |

#[macro_use]
mod mutated;

mod apply;
pub mod config;
pub mod error;
mod fatal;
mod leadership;
pub mod level;
pub mod low_priority;
mod membership;
mod metrics;
mod network;
mod node;
mod node_address;
mod openraft_config;
pub mod peer_clocks;
mod proposals;
mod protocol;
mod removal;
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
pub use crate::node::peer_admission::IdentifiedPeer;
pub use crate::node_address::{NodeAddress, NodeAddressError};
pub use crate::proposals::committed::Committed;
pub use crate::proposals::options::{Priority, ProposeOptions};
pub use crate::proposals::piggyback::{PiggybackDispatcher, PiggybackedCommand};
pub use crate::protocol::printable::is_unsafe as is_unsafe_on_terminal;
pub use crate::removal::Removal;
pub use crate::state_machine::{EntryView, Frozen, StateMachine};
pub use crate::storage::snapshot_store::WrittenSnapshot;
pub use crate::tasks::divergence_check::{Checkpoint, ConsistencyStatus};
pub use config::{BootstrapMode, Limits, NodeConfig, SnapshotPolicy, Timing};
pub use error::{ChangeError, ProposeError, ReadError, StartError};
pub use level::{Level, NodeVersion};
pub use status::{
    DiskStatus, FormingMember, FormingStatus, Leadership, NodeStatus, PeerRole, PeerState,
    Readiness, SnapshotTransfer, Status,
};
pub use triarch_storage::contained_panic;
pub use triarch_storage::{Histogram, HistogramSnapshot};

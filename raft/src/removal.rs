//! Removal signal: set when this node learns that it was removed from its cluster, for good.
//!
//! The owner of the process watches the signal, says so to operators, and exits; nothing in this crate retries.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// Removal of a node from its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The removed node.
    pub node_id: u64,
    /// Index of the log entry by which it was removed, or of a later one.
    pub index: u64,
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Removal { node_id, index } = self;
        write!(
            f,
            "node {node_id} was removed from the cluster by log entry {index}, and its id is not used again: to bring this \
             machine back, start it on an empty directory with --join and an id that was never used"
        )
    }
}

/// Handle of the signal. Cheap to clone; all clones share one signal.
#[derive(Debug, Clone)]
pub(crate) struct RemovalSignal {
    node_id: u64,
    removal: Arc<watch::Sender<Option<Removal>>>,
}

impl RemovalSignal {
    pub(crate) fn new(node_id: u64) -> Self {
        RemovalSignal {
            node_id,
            removal: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Returns the node that the signal is about: this one.
    pub(crate) fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Sets the signal: the membership entry at `index`, or one before it, has removed this node. Only the first call has
    /// an effect.
    pub(crate) fn set(&self, index: u64) {
        let removal = Removal {
            node_id: self.node_id,
            index,
        };
        self.removal.send_if_modified(|current| {
            if current.is_some() {
                return false;
            }
            tracing::error!("{removal}");
            *current = Some(removal);
            true
        });
    }

    pub(crate) fn get(&self) -> Option<Removal> {
        self.removal.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Removal>> {
        self.removal.subscribe()
    }
}

//! Role of this node and its contact with the leader, derived from openraft's state, applied entries and heartbeats.
//!
//! openraft calls a node leader from the moment it wins the vote, and goes on naming a dead leader until another is
//! elected. The first is too early for routing requests, the second too late.
//!
//! # Invariants
//!
//! - A node *leads* once an entry of its own term is applied here. A quorum has then confirmed it, and every earlier
//!   entry is applied too.
//! - A leader that has not been heard for the length of its lease, or whose connections are refused, is no longer
//!   named.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::status::Leadership;

/// [`Leadership`], plus the state between being elected and leading.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RaftRole {
    Leading {
        term: u64,
        since: Instant,
    },
    Elected {
        term: u64,
    },
    Following {
        term: u64,
        leader: u64,
        addr: String,
    },
    Unknown {
        term: u64,
    },
}

impl RaftRole {
    pub(crate) fn leadership(&self) -> Leadership {
        match self {
            RaftRole::Leading { term, since } => Leadership::Leading {
                term: *term,
                since: *since,
            },
            RaftRole::Elected { term } | RaftRole::Unknown { term } => {
                Leadership::Unknown { term: *term }
            }
            RaftRole::Following { term, leader, addr } => Leadership::Following {
                term: *term,
                leader: *leader,
                addr: addr.clone(),
            },
        }
    }

    /// Returns the leader to ask instead, if this node follows one.
    pub(crate) fn leader(&self) -> Option<(u64, String)> {
        match self {
            RaftRole::Following { leader, addr, .. } => Some((*leader, addr.clone())),
            RaftRole::Leading { .. } | RaftRole::Elected { .. } | RaftRole::Unknown { .. } => None,
        }
    }

    /// Returns the latest term known here.
    pub(crate) fn term(&self) -> u64 {
        match self {
            RaftRole::Leading { term, .. }
            | RaftRole::Elected { term }
            | RaftRole::Following { term, .. }
            | RaftRole::Unknown { term } => *term,
        }
    }

    /// Returns the term this node was elected in, confirmed or not.
    pub(crate) fn own_term(&self) -> Option<u64> {
        match self {
            RaftRole::Leading { term, .. } | RaftRole::Elected { term } => Some(*term),
            RaftRole::Following { .. } | RaftRole::Unknown { .. } => None,
        }
    }
}

/// Last contact with the leader, and whether its connections are known to be broken.
#[derive(Debug)]
pub(crate) struct LeaderContact {
    start: Instant,
    /// Milliseconds after `start`, plus one. 0 for never.
    at_ms: AtomicU64,
    /// Highest commit index that a leader has sent, whether or not the entries up to it have arrived.
    commit_index: AtomicU64,
    suspicion: watch::Sender<Option<Suspicion>>,
}

/// Term in which this node has begun a leadership transfer. From then on its followers may elect another leader at any
/// moment, whatever its lease says. The node must therefore no longer be treated as leader.
#[derive(Debug, Default)]
pub(crate) struct LeadershipTransfer {
    term: AtomicU64,
}

impl LeadershipTransfer {
    pub(crate) fn begin(&self, term: u64) {
        self.term.fetch_max(term, Ordering::SeqCst);
    }

    pub(crate) fn has_begun(&self, term: u64) -> bool {
        self.term.load(Ordering::SeqCst) >= term
    }
}

/// Reason why the leader of `term` is considered gone before its lease is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspicion {
    pub term: u64,
    pub why: String,
}

impl LeaderContact {
    pub(crate) fn new() -> Self {
        LeaderContact {
            start: Instant::now(),
            at_ms: AtomicU64::new(0),
            commit_index: AtomicU64::new(0),
            suspicion: watch::Sender::new(None),
        }
    }

    /// Records a message of the leader, and the commit index in it.
    pub(crate) fn record(&self, commit_index: u64) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.at_ms.store(ms + 1, Ordering::Relaxed);
        self.commit_index.fetch_max(commit_index, Ordering::Relaxed);
    }

    /// Returns the highest commit index that a leader has sent. A committed index never shrinks.
    pub(crate) fn commit_index(&self) -> u64 {
        self.commit_index.load(Ordering::Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Option<Duration> {
        match self.at_ms.load(Ordering::Relaxed) {
            0 => None,
            at => Some(
                self.start
                    .elapsed()
                    .saturating_sub(Duration::from_millis(at - 1)),
            ),
        }
    }

    pub(crate) fn subscribe_suspicion(&self) -> watch::Receiver<Option<Suspicion>> {
        self.suspicion.subscribe()
    }

    pub(crate) fn is_suspected(&self) -> bool {
        self.suspicion.borrow().is_some()
    }

    pub(crate) fn suspect(&self, suspicion: Suspicion) {
        self.suspicion.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&suspicion);
            *current = Some(suspicion);
            changed
        });
    }

    pub(crate) fn clear_suspicion(&self) {
        self.suspicion
            .send_if_modified(|current| current.take().is_some());
    }
}

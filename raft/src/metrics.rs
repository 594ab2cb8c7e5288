//! Metrics of consensus on this node since its start: counters and histograms.
//!
//! This module holds numbers only. Names, labels and formats are the program's. Counting takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use triarch_storage::{Histogram, LogMetrics};

use crate::error::ProposeError;
use crate::leadership::change_reason::LeaderChangeKind;

/// Upper bounds of buckets for the commands of one entry.
const COMMAND_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];
/// Upper bounds of buckets for the bytes of one entry.
const BYTE_BOUNDS: &[u64] = &[
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
];

/// Counters and histograms of consensus on this node.
#[derive(Debug)]
pub struct ConsensusMetrics {
    /// Metrics of the log's disk.
    pub log: Arc<LogMetrics>,
    /// Commands per entry that this node proposed.
    pub entry_commands: Histogram,
    /// Bytes per entry that this node proposed.
    pub entry_bytes: Histogram,
    /// Wait of each command that this node proposed, from its proposal until its entry was sent, in ns.
    pub proposal_wait: Histogram,
    /// Apply time of each entry with commands on this node, in ns.
    pub apply: Histogram,
    /// Time from proposal of each of this node's entries until it was committed and applied here, in ns.
    pub commit: Histogram,
    /// Time to write each snapshot of this node's own, in ns.
    pub snapshot_write: Histogram,
    /// Time to restore each snapshot that was received, in ns.
    pub snapshot_install: Histogram,
    snapshots_postponed: AtomicU64,
    proposals_open: AtomicU64,
    refusals: [AtomicU64; ProposalRefusal::ALL.len()],
    campaigns: AtomicU64,
    leader_changes: [AtomicU64; LeaderChangeKind::ALL.len()],
    leaderless: Mutex<Leaderless>,
    abdications: AtomicU64,
    /// Start of the time in which entries of this leader wait and the commit index does not advance.
    commits_stand: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Leaderless {
    total: Duration,
    since: Option<Instant>,
}

/// Reason why a proposal is not done, or its outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalRefusal {
    /// This node does not lead.
    NotLeader,
    /// Too many proposals wait.
    Overloaded,
    /// The command exceeds the maximum size.
    TooLarge,
    /// Disks are nearly full.
    DiskLow,
    /// The disk has failed.
    StorageFailed,
    /// The node is shutting down.
    ShuttingDown,
    /// The state machine cannot decode the command.
    Malformed,
    /// Leadership was lost, or the deadline passed, while the proposal was in flight.
    Unknown,
}

impl ProposalRefusal {
    /// All reasons.
    pub const ALL: [ProposalRefusal; 8] = [
        ProposalRefusal::NotLeader,
        ProposalRefusal::Overloaded,
        ProposalRefusal::TooLarge,
        ProposalRefusal::DiskLow,
        ProposalRefusal::StorageFailed,
        ProposalRefusal::ShuttingDown,
        ProposalRefusal::Malformed,
        ProposalRefusal::Unknown,
    ];

    /// Returns the name of the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            ProposalRefusal::NotLeader => "not_leader",
            ProposalRefusal::Overloaded => "overloaded",
            ProposalRefusal::TooLarge => "too_large",
            ProposalRefusal::DiskLow => "disk_low",
            ProposalRefusal::StorageFailed => "storage_failed",
            ProposalRefusal::ShuttingDown => "shutting_down",
            ProposalRefusal::Malformed => "malformed",
            ProposalRefusal::Unknown => "unknown",
        }
    }
}

impl From<&ProposeError> for ProposalRefusal {
    fn from(error: &ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => ProposalRefusal::NotLeader,
            ProposeError::Overloaded => ProposalRefusal::Overloaded,
            ProposeError::TooLarge { .. } => ProposalRefusal::TooLarge,
            ProposeError::DiskLow(_) => ProposalRefusal::DiskLow,
            ProposeError::StorageFailed(_) => ProposalRefusal::StorageFailed,
            ProposeError::ShuttingDown => ProposalRefusal::ShuttingDown,
            ProposeError::Malformed(_) => ProposalRefusal::Malformed,
            ProposeError::Unknown(_) => ProposalRefusal::Unknown,
        }
    }
}

impl ConsensusMetrics {
    /// Returns the number of snapshots that were given up for lack of space, descriptors, memory or threads.
    pub fn snapshots_postponed(&self) -> u64 {
        self.snapshots_postponed.load(Ordering::Relaxed)
    }

    pub(crate) fn record_postponed_snapshot(&self) {
        self.snapshots_postponed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn new(log: Arc<LogMetrics>) -> Self {
        ConsensusMetrics {
            log,
            entry_commands: Histogram::new(COMMAND_BOUNDS),
            entry_bytes: Histogram::new(BYTE_BOUNDS),
            proposal_wait: Histogram::of_times(),
            apply: Histogram::of_times(),
            commit: Histogram::of_times(),
            snapshot_write: Histogram::of_times(),
            snapshot_install: Histogram::of_times(),
            snapshots_postponed: AtomicU64::new(0),
            proposals_open: AtomicU64::new(0),
            refusals: std::array::from_fn(|_| AtomicU64::new(0)),
            campaigns: AtomicU64::new(0),
            leader_changes: std::array::from_fn(|_| AtomicU64::new(0)),
            leaderless: Mutex::new(Leaderless {
                total: Duration::ZERO,
                since: Some(Instant::now()),
            }),
            abdications: AtomicU64::new(0),
            commits_stand: Mutex::new(None),
        }
    }

    /// Returns the number of times this node handed leadership over because it could not commit, or its disk hung.
    pub fn abdications(&self) -> u64 {
        self.abdications.load(Ordering::Relaxed)
    }

    /// Returns for how long the oldest entry of this leader has waited without an advance of the commit index. Zero
    /// while nothing waits, and on a node that does not lead.
    pub fn oldest_proposal_age(&self) -> Duration {
        let since = *self.commits_stand.lock();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(crate) fn abdicated(&self) {
        self.abdications.fetch_add(1, Ordering::Relaxed);
    }

    /// Records since when entries wait while the commit index does not advance. `None` if none waits.
    pub(crate) fn commits_stand(&self, since: Option<Instant>) {
        *self.commits_stand.lock() = since;
    }

    /// Returns the number of proposals on this node that wait or are in flight.
    pub fn proposals_open(&self) -> u64 {
        self.proposals_open.load(Ordering::Relaxed)
    }

    /// Returns the number of proposals to this node that were not done, or whose outcome is unknown, for the reason
    /// `why`.
    pub fn refusals(&self, why: ProposalRefusal) -> u64 {
        self.refusals[why as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of terms in which this node asked for votes.
    pub fn campaigns(&self) -> u64 {
        self.campaigns.load(Ordering::Relaxed)
    }

    /// Returns the number of leader changes of this kind that this node has seen.
    pub fn leader_changes(&self, kind: LeaderChangeKind) -> u64 {
        self.leader_changes[kind as usize].load(Ordering::Relaxed)
    }

    /// Returns the total time for which this node has known of no leader, the present period included.
    pub fn leaderless(&self) -> Duration {
        let leaderless = self.leaderless.lock();
        leaderless.total
            + leaderless
                .since
                .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Counts a proposal as open until the guard is dropped.
    pub(crate) fn open_proposal(&self) -> OpenProposal<'_> {
        self.proposals_open.fetch_add(1, Ordering::Relaxed);
        OpenProposal(&self.proposals_open)
    }

    pub(crate) fn refused(&self, why: ProposalRefusal) {
        self.refusals[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn campaigned(&self) {
        self.campaigns.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leader_changed(&self, kind: LeaderChangeKind) {
        self.leader_changes[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a leader is known here from now on, or that none is.
    pub(crate) fn leader_known(&self, known: bool) {
        let mut leaderless = self.leaderless.lock();
        match (known, leaderless.since) {
            (true, Some(since)) => {
                leaderless.total += since.elapsed();
                leaderless.since = None;
            }
            (false, None) => leaderless.since = Some(Instant::now()),
            (true, None) | (false, Some(_)) => {}
        }
    }
}

/// Guard of an open proposal. See [`ConsensusMetrics::open_proposal`].
pub(crate) struct OpenProposal<'a>(&'a AtomicU64);

impl Drop for OpenProposal<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

//! What came of the commands that this node applied while it led, counted for operators.
//!
//! Every node applies every command, and applies many of them again when it restarts. Here each counts once in the
//! cluster, at the node that leads: the sum over all nodes is what happened. The few commands that are in flight when
//! leadership changes may count nowhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use triarch_table::Event;
use triarch_table::types::state::TaskState;

/// Why a lease was ended by the leader instead of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Its worker was lost.
    WorkerLost,
    /// Its worker lives and did not confirm it.
    Unconfirmed,
    /// The attempt ran past its time limit.
    TimedOut,
    /// No poll came to take it.
    Unclaimed,
}

impl Expiry {
    /// All of them.
    pub const ALL: [Expiry; 4] = [
        Expiry::WorkerLost,
        Expiry::Unconfirmed,
        Expiry::TimedOut,
        Expiry::Unclaimed,
    ];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Expiry::WorkerLost => "worker_lost",
            Expiry::Unconfirmed => "unconfirmed",
            Expiry::TimedOut => "timed_out",
            Expiry::Unclaimed => "unclaimed",
        }
    }
}

/// What was said of a reported result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It counts.
    Accepted,
    /// Its lease is another's, or over.
    StaleToken,
    /// The task is terminal by something else.
    AlreadyFinished,
    /// There is no such task.
    NotFound,
    /// It was not even proposed: over its bound.
    TooLarge,
}

impl Judged {
    /// All of them.
    pub const ALL: [Judged; 5] = [
        Judged::Accepted,
        Judged::StaleToken,
        Judged::AlreadyFinished,
        Judged::NotFound,
        Judged::TooLarge,
    ];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Judged::Accepted => "accepted",
            Judged::StaleToken => "stale_token",
            Judged::AlreadyFinished => "already_finished",
            Judged::NotFound => "not_found",
            Judged::TooLarge => "payload_too_large",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tally {
    leading: AtomicBool,
    task_changes: [AtomicU64; TaskState::ALL.len()],
    /// Jobs that came into being.
    pub jobs_submitted: Count,
    /// Leases granted.
    pub leases_granted: Count,
    /// Workers that registered.
    pub workers_registered: Count,
    /// Workers that were silent for their whole time.
    pub workers_lost: Count,
    /// Ticks of schedules that made a job.
    pub ticks_fired: Count,
    /// Ticks of schedules that were over without one.
    pub ticks_passed: Count,
    leases_expired: [AtomicU64; Expiry::ALL.len()],
    results: [AtomicU64; Judged::ALL.len()],
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// More of it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How much it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// This node leads from now on, or does not.
    pub fn set_leading(&self, leading: bool) {
        self.leading.store(leading, Ordering::Relaxed);
    }

    /// Whether this node leads.
    #[cfg(feature = "mutations")]
    pub fn leads(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// Counts what happened in an apply.
    pub fn applied(&self, events: &[Event]) {
        if !self.leading.load(Ordering::Relaxed) {
            return;
        }
        for event in events {
            match event {
                Event::TaskChanged { to, .. } => {
                    self.task_changes[*to as usize].fetch_add(1, Ordering::Relaxed);
                }
                Event::JobSubmitted { .. } => self.jobs_submitted.add(1),
                Event::LeaseGranted { .. } => self.leases_granted.add(1),
                Event::WorkerRegistered { .. } => self.workers_registered.add(1),
                Event::WorkerGone { lost: true, .. } => self.workers_lost.add(1),
                Event::ScheduleTicked { job: Some(_), .. } => self.ticks_fired.add(1),
                Event::ScheduleTicked { job: None, .. } => self.ticks_passed.add(1),
                Event::WorkerGone { lost: false, .. }
                | Event::LeaseEnded { .. }
                | Event::JobFinished { .. }
                | Event::WorkerDraining { .. }
                | Event::QueueChanged { .. }
                | Event::ScheduleChanged { .. }
                | Event::WorkerChanged { .. }
                | Event::Restored => {}
            }
        }
    }

    /// Leases were ended by the leader.
    pub fn expired(&self, why: Expiry, leases: u64) {
        self.leases_expired[why as usize].fetch_add(leases, Ordering::Relaxed);
    }

    /// A result was judged.
    pub fn judged(&self, verdict: Judged) {
        self.results[verdict as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often tasks came to be in this state.
    pub fn task_changes(&self, to: TaskState) -> u64 {
        self.task_changes[to as usize].load(Ordering::Relaxed)
    }

    /// How many leases were ended for this reason.
    pub fn leases_expired(&self, why: Expiry) -> u64 {
        self.leases_expired[why as usize].load(Ordering::Relaxed)
    }

    /// How many results were judged so.
    pub fn results(&self, verdict: Judged) -> u64 {
        self.results[verdict as usize].load(Ordering::Relaxed)
    }
}

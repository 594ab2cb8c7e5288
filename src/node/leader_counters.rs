//! Counters of the leader: effects of the commands that this node applied while it led, for operators.
//!
//! Every node applies every command, and applies many of them again when it restarts. Each command is therefore counted
//! once in the cluster, at the node that leads: the sum over all nodes is the number of events. The few commands in
//! flight when leadership changes may be counted nowhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use strum::{EnumCount, IntoStaticStr, VariantArray};
use triarch_table::Event;
use triarch_table::types::state::TaskState;

/// Reason for which the leader ended a lease instead of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum LeaseExpiry {
    /// Its worker was lost.
    WorkerLost,
    /// Its worker is not lost, but did not confirm it.
    Unconfirmed,
    /// The attempt ran past its time limit.
    TimedOut,
    /// No poll took it.
    Unclaimed,
}

/// Decision on a reported result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum ResultDecision {
    /// The result counts.
    Accepted,
    /// The fencing token is stale: the lease belongs to another attempt, or is over.
    StaleToken,
    /// The task is terminal for another reason.
    AlreadyFinished,
    /// No such task exists.
    NotFound,
    /// The result is over the size bound and was never proposed.
    #[strum(serialize = "payload_too_large")]
    TooLarge,
    /// The result breaks the format and was never proposed.
    #[strum(serialize = "invalid_request")]
    Invalid,
}

/// Counters of one node, which count while it leads.
#[derive(Debug, Default)]
pub struct LeaderCounters {
    leading: AtomicBool,
    task_changes: [AtomicU64; TaskState::ALL.len()],
    /// Jobs submitted.
    pub jobs_submitted: Counter,
    /// Leases granted.
    pub leases_granted: Counter,
    /// Workers that registered.
    pub workers_registered: Counter,
    /// Workers lost, after silence for a full lease time.
    pub workers_lost: Counter,
    /// Ticks of schedules that created a job.
    pub ticks_fired: Counter,
    /// Ticks of schedules that created no job.
    pub ticks_passed: Counter,
    leases_expired: [AtomicU64; LeaseExpiry::COUNT],
    results: [AtomicU64; ResultDecision::COUNT],
}

/// A monotonic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl LeaderCounters {
    /// Sets whether this node leads.
    pub fn set_leading(&self, leading: bool) {
        self.leading.store(leading, Ordering::Relaxed);
    }

    /// Returns whether this node leads.
    #[cfg(feature = "mutations")]
    pub fn leads(&self) -> bool {
        self.leading.load(Ordering::Relaxed)
    }

    /// Counts the events of an applied entry.
    pub fn count_applied(&self, events: &[Event]) {
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
                | Event::Restored
                | Event::TimeSetBack { .. } => {}
            }
        }
    }

    /// Counts leases that the leader ended.
    pub fn count_expired_leases(&self, reason: LeaseExpiry, leases: u64) {
        self.leases_expired[reason as usize].fetch_add(leases, Ordering::Relaxed);
    }

    /// Counts a result by its decision.
    pub fn count_result(&self, decision: ResultDecision) {
        self.results[decision as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of changes of tasks to this state.
    pub fn task_changes(&self, to: TaskState) -> u64 {
        self.task_changes[to as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of leases that the leader ended for this reason.
    pub fn leases_expired(&self, reason: LeaseExpiry) -> u64 {
        self.leases_expired[reason as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of results with this decision.
    pub fn results(&self, decision: ResultDecision) -> u64 {
        self.results[decision as usize].load(Ordering::Relaxed)
    }
}

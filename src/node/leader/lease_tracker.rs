//! Lease tracker and failure detector of workers. It keeps in memory, for one leader term, when each worker and each
//! lease was last heard from.
//!
//! # Invariants
//!
//! - All times are those of this process's monotonic clock.
//! - A worker or lease that is seen for the first time counts as heard from at that moment. A new leader therefore
//!   gives each a full lease time of grace. The same holds for one that is in the table before the tracker has seen it.
//! - A worker whose name another one claims has this grace less the silence that earlier leaders have recorded: see
//!   [`worker_silence`](triarch_areas::worker_silence).
//! - A lease is delivered to one poll, or returned to its queue, and never both: see [`Delivery`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use triarch_areas::worker_silence::{Silence, WorkerSilences};
use triarch_table::command::reply::Lease;
use triarch_table::command::{EndLease, EndReason};
use triarch_table::records::worker::Worker;
use triarch_table::{Table, TaskId, Token, WorkerId};

/// Heartbeat interval, and the duration of silence that ends leases.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTiming {
    /// Shortest interval between two heartbeats of a worker.
    pub heartbeat_ms: u64,
    /// Silence after which a worker is lost, and a lease ends.
    pub lease_ms: u64,
}

/// Maximum heartbeats per second of all workers together. Above it, the interval grows with the number of workers.
///
/// Nomad's servers bound the rate of heartbeats in the same way: they stretch the time to live of their clients. Here
/// the silence that ends a lease does not change.
const HEARTBEAT_RATE_MAX_PER_S: u64 = 1_000;

impl LeaseTiming {
    /// Returns the heartbeat interval of each of this many workers. It always leaves room for one lost heartbeat in a
    /// lease.
    pub fn heartbeat_ms_for(self, workers: usize) -> u64 {
        let shared = u64::try_from(workers)
            .unwrap_or(u64::MAX)
            .saturating_mul(1_000)
            / HEARTBEAT_RATE_MAX_PER_S;
        shared
            .min(self.lease_ms.saturating_mul(2) / 5)
            .max(self.heartbeat_ms)
    }
}

/// Time for a worker to end an attempt by itself and report, before the leader ends it. Covers TERM, KILL and
/// the report's way to the leader.
const TIMEOUT_GRACE: Duration = Duration::from_secs(15);

/// Last contacts of workers and leases. See the module.
pub struct LeaseTracker {
    term_start: Instant,
    workers: HashMap<WorkerId, WorkerContact>,
    leases: HashMap<Token, TrackedLease>,
    /// Workers whose names other workers claim, and the time of the last claim.
    claims: HashMap<WorkerId, Instant>,
}

struct WorkerContact {
    last_contact: Instant,
    load: Option<WorkerLoad>,
    /// Silence before `last_contact`, under earlier leaders.
    carried: Duration,
    /// Number of contacts that the last record of its silence under this leader carries.
    recorded_at: Option<u32>,
}

impl WorkerContact {
    fn heard(at: Instant) -> Self {
        Self {
            last_contact: at,
            load: None,
            carried: Duration::ZERO,
            recorded_at: None,
        }
    }

    fn silence(&self, now: Instant) -> Duration {
        self.carried + now.saturating_duration_since(self.last_contact)
    }
}

/// Load of a worker's machine, as the worker reports it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkerLoad {
    /// Share of the machine's processors, 0 to 1.
    pub cpu: Option<f64>,
    /// Memory in use, MiB.
    pub mem_mb: Option<u64>,
}

/// Processor load from which a machine gets work only when no other worker takes it.
const OVERLOAD_CPU_SHARE: f64 = 0.95;

impl WorkerLoad {
    fn is_overloaded(self) -> bool {
        self.cpu.is_some_and(|cpu| cpu >= OVERLOAD_CPU_SHARE)
    }
}

/// Delivery state of a lease between its grant and its worker. It exists because a running task must not be taken from
/// its worker when an earlier poll of the same worker hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// Granted, and being delivered to the poll that waited at that time.
    Pending,
    /// Delivered to a later poll, because the worker did not know of it.
    Delivered,
    /// Being returned: its task goes back to the queue.
    Returning,
}

struct TrackedLease {
    delivery: Delivery,
    confirmed: Instant,
    granted: Instant,
    progress: Option<AttemptProgress>,
}

/// Progress of an attempt, as its worker reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptProgress {
    /// 0 to 1.
    pub progress: Option<f64>,
    /// Free text.
    pub note: Option<String>,
}

/// Workers and leases whose time is up.
#[derive(Debug, Default)]
pub struct Overdue {
    /// Workers silent for a full lease time.
    pub workers: Vec<WorkerId>,
    /// Leases to end, of workers that are not lost.
    pub leases: Vec<EndLease>,
}

impl LeaseTracker {
    /// Creates an empty tracker at the beginning of a term.
    pub fn new(term_start: Instant) -> Self {
        Self {
            term_start,
            workers: HashMap::new(),
            leases: HashMap::new(),
            claims: HashMap::new(),
        }
    }

    /// Records that the worker was heard from now. A silence of it that is in the state, or on its way there, must be ended
    /// before the worker is answered: see [`LeaseTracker::open_silence`].
    pub fn record_contact(&mut self, worker: WorkerId, now: Instant) {
        let contact = self
            .workers
            .entry(worker)
            .or_insert_with(|| WorkerContact::heard(now));
        contact.last_contact = now;
        contact.carried = Duration::ZERO;
    }

    /// Returns whether a silence of the worker is recorded in the state, or on its way there.
    pub fn open_silence(&self, worker: WorkerId, recorded: Silence) -> bool {
        let contact = self.workers.get(&worker);
        recorded.silent_ms > 0
            || contact.is_some_and(|contact| contact.recorded_at == Some(recorded.contacts))
    }

    /// Records that another worker claims the name of this one. Returns for how long this one has been silent.
    pub fn record_claim(&mut self, holder: WorkerId, now: Instant) -> Duration {
        self.claims.insert(holder, now);
        self.silence(holder, now)
    }

    /// Returns for how long leaders have not heard from the worker.
    pub fn silence(&self, worker: WorkerId, now: Instant) -> Duration {
        self.workers.get(&worker).map_or_else(
            || now.saturating_duration_since(self.term_start),
            |contact| contact.silence(now),
        )
    }

    /// Records the load that a known worker reports.
    pub fn record_load(&mut self, worker: WorkerId, load: WorkerLoad) {
        if let Some(contact) = self.workers.get_mut(&worker) {
            contact.load = Some(load);
        }
    }

    /// Returns the number of workers that the tracker has seen.
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Returns the worker's last reported load.
    pub fn load(&self, worker: WorkerId) -> Option<WorkerLoad> {
        self.workers.get(&worker).and_then(|contact| contact.load)
    }

    /// Returns whether the worker's machine takes work only when no other worker does.
    pub fn is_overloaded(&self, worker: WorkerId) -> bool {
        self.load(worker).is_some_and(WorkerLoad::is_overloaded)
    }

    /// Records that the lease was granted, or confirmed by its worker, now.
    pub fn confirm(&mut self, token: Token, now: Instant, progress: Option<AttemptProgress>) {
        let lease = self.leases.entry(token).or_insert(TrackedLease {
            delivery: Delivery::Pending,
            confirmed: now,
            granted: now,
            progress: None,
        });
        if !mutated!(HeartbeatIgnored) {
            lease.confirmed = now;
        }
        if progress.is_some() {
            lease.progress = progress;
        }
    }

    /// Marks a lease that its worker does not know of as delivered to a poll of that worker. Returns `false` for a
    /// lease that is being returned to the queue.
    pub fn mark_delivered(&mut self, lease: &Lease, now: Instant) -> bool {
        self.confirm(lease.token, now, None);
        let tracked = self.leases.get_mut(&lease.token);
        tracked.is_some_and(|tracked| {
            let deliverable = tracked.delivery != Delivery::Returning;
            if deliverable {
                tracked.delivery = Delivery::Delivered;
            }
            deliverable
        })
    }

    /// Returns whether the lease has been delivered to a later poll.
    pub fn is_delivered(&self, lease: &Lease) -> bool {
        let tracked = self.leases.get(&lease.token);
        tracked.is_some_and(|tracked| tracked.delivery == Delivery::Delivered)
    }

    /// Marks an undelivered lease as being returned to the queue. Returns `false` for any other lease.
    pub fn mark_returning(&mut self, lease: &Lease) -> bool {
        match self.leases.get_mut(&lease.token) {
            Some(tracked) if tracked.delivery == Delivery::Pending => {
                tracked.delivery = Delivery::Returning;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Returns the progress that the worker last reported of this attempt.
    pub fn progress(&self, token: Token) -> Option<&AttemptProgress> {
        self.leases
            .get(&token)
            .and_then(|lease| lease.progress.as_ref())
    }

    /// Extends all deadlines by a pause of this process itself (stopped, or starved), because it received nothing
    /// during that time.
    pub fn extend_deadlines(&mut self, pause: Duration, now: Instant) {
        let later = |at: &mut Instant| *at = (*at + pause).min(now);
        later(&mut self.term_start);
        for contact in self.workers.values_mut() {
            later(&mut contact.last_contact);
        }
        for lease in self.leases.values_mut() {
            later(&mut lease.confirmed);
        }
    }

    /// Returns the silences that the state should carry to the next leader: those of workers whose names are claimed, or
    /// whose silence is recorded already. Each claim is a log entry itself, so it may cost another one.
    pub fn silences_to_record(
        &mut self,
        silences: &WorkerSilences,
        timing: LeaseTiming,
        now: Instant,
    ) -> Vec<(WorkerId, Silence)> {
        let lease_time = Duration::from_millis(timing.lease_ms);
        let claims = &mut self.claims;
        claims.retain(|_, claimed| now.saturating_duration_since(*claimed) <= lease_time);
        let mut found = Vec::new();
        for (worker, contact) in &mut self.workers {
            let recorded = silences.of(*worker);
            if recorded.silent_ms == 0 && !claims.contains_key(worker) {
                continue;
            }
            let silent_ms = contact.silence(now).as_millis();
            let silent_ms = u32::try_from(silent_ms).unwrap_or(u32::MAX);
            if silent_ms > recorded.silent_ms {
                contact.recorded_at = Some(recorded.contacts);
                let silence = Silence {
                    silent_ms,
                    ..recorded
                };
                found.push((*worker, silence));
            }
        }
        found
    }

    /// Checks every worker and lease of the table against the clock, and forgets those that the table no longer has.
    pub fn overdue(
        &mut self,
        table: &Table,
        silences: &WorkerSilences,
        timing: LeaseTiming,
        now: Instant,
    ) -> Overdue {
        let lease_time = match mutated!(SilenceNeverEndsALease) {
            true => Duration::MAX,
            false => Duration::from_millis(timing.lease_ms),
        };
        let first_seen = match mutated!(LeasesExpiredAtElection) {
            true => now.checked_sub(lease_time * 2).unwrap_or(now),
            false => now,
        };
        let mut overdue = Overdue::default();
        let is_present = |worker: &Worker| worker.state().is_present();
        let mut present = 0;
        for worker in table.workers().filter(|worker| is_present(worker)) {
            present += 1;
            let contact = self.workers.entry(worker.id).or_insert_with(|| {
                let silent_ms = match mutated!(SilenceForgottenAtElection) {
                    true => 0,
                    false => silences.of(worker.id).silent_ms,
                };
                WorkerContact {
                    carried: Duration::from_millis(silent_ms.into()),
                    ..WorkerContact::heard(first_seen)
                }
            });
            if contact.silence(now) > lease_time {
                overdue.workers.push(worker.id);
            }
        }
        if self.workers.len() > present {
            self.workers
                .retain(|id, _| table.worker(*id).is_some_and(is_present));
        }

        let mut live = HashMap::with_capacity(self.leases.len());
        for lease in table.leases() {
            let tracked = self.leases.remove(&lease.token).unwrap_or(TrackedLease {
                delivery: Delivery::Pending,
                confirmed: first_seen,
                granted: now,
                progress: None,
            });
            if now.saturating_duration_since(tracked.confirmed) > lease_time {
                overdue.leases.push(end_lease(&lease, EndReason::Expired));
            } else if let Some(timeout_ms) = timeout_ms(table, lease.task)
                && now.saturating_duration_since(tracked.granted)
                    > Duration::from_millis(timeout_ms) + TIMEOUT_GRACE
            {
                overdue.leases.push(end_lease(&lease, EndReason::TimedOut));
            }
            live.insert(lease.token, tracked);
        }
        self.leases = live;
        // A lost worker's leases end with it.
        overdue.leases.retain(|ended| {
            table
                .lease(ended.task)
                .is_none_or(|lease| !overdue.workers.contains(&lease.worker))
        });
        overdue
    }
}

/// Builds the command part that ends this lease.
pub fn end_lease(lease: &Lease, reason: EndReason) -> EndLease {
    EndLease {
        task: lease.task,
        token: lease.token,
        reason,
    }
}

fn timeout_ms(table: &Table, task: TaskId) -> Option<u64> {
    table
        .task(task)
        .and_then(|task| task.spec.policy.timeout_ms)
}

//! What a leader keeps in memory for one term and never writes down: when each worker and lease was last heard of, and
//! the polls that wait for work.
//!
//! All times are this process's monotonic clock. A new leader has heard of nobody yet, so whatever it meets counts as
//! heard of when it is first met: everyone gets one full TTL of grace. So do workers and leases that are in the table
//! already, while whoever put them there is on the way to tell the desk.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use triarch_table::command::reply::Lease;
use triarch_table::command::{EndLease, EndReason, WorkerDemand};
use triarch_table::plan::Demand;
use triarch_table::records::worker::Worker;
use triarch_table::{Table, TaskId, Token, WorkerId};

/// How long a worker may be silent, and a lease unconfirmed.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTiming {
    /// How often a worker is asked to be heard of.
    pub heartbeat_ms: u64,
    /// Silence after which a worker is lost, and a lease ends.
    pub lease_ms: u64,
}

/// Heartbeats in a second, of all workers together, from which on they come less often the more workers there are.
///
/// As Nomad's servers do, which stretch the time to live of their clients by the number of them; here the time after which
/// silence counts stays as it is.
const HEARTBEATS_PER_S: u64 = 1_000;

impl LeaseTiming {
    /// How often each of so many workers is asked to be heard of: never so rarely that one heartbeat that is lost costs a
    /// worker its leases.
    pub fn heartbeat_ms_of(self, workers: usize) -> u64 {
        let shared = u64::try_from(workers)
            .unwrap_or(u64::MAX)
            .saturating_mul(1_000)
            / HEARTBEATS_PER_S;
        shared
            .min(self.lease_ms.saturating_mul(2) / 5)
            .max(self.heartbeat_ms)
    }
}

/// Time that a worker has to end an attempt by itself and report, before the leader does it: TERM, KILL, and the way here.
const TIMEOUT_GRACE: Duration = Duration::from_secs(15);

/// One leader's desk; see the module.
pub struct Desk {
    since: Instant,
    workers: HashMap<WorkerId, WorkerSeen>,
    leases: HashMap<Token, LeaseSeen>,
    polls: HashMap<WorkerId, Poll>,
    next_poll: u64,
    /// Workers whose polls have brought results that are on their way into the log, and how much they want next: that is
    /// decided in the same entry, right behind the results that free their slots.
    returning: HashMap<WorkerId, u32>,
    /// Granted while the worker's poll ended; its next one takes them.
    held: HashMap<WorkerId, Held>,
}

/// Leases without a poll to answer with them.
struct Held {
    since: Instant,
    leases: Vec<Lease>,
}

/// How long leases are held for their worker's next poll, which usually follows the last at once.
const HELD_MAX: Duration = Duration::from_secs(1);

struct WorkerSeen {
    heard: Instant,
    load: Option<Load>,
}

/// What a worker says of its machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Share of the machine's processors, 0 to 1.
    pub cpu: Option<f64>,
    /// Memory in use, MiB.
    pub mem_mb: Option<u64>,
}

/// A machine whose processors are this busy gets work only when no other worker takes it.
const OVERLOADED_CPU: f64 = 0.95;

impl Load {
    fn is_too_much(self) -> bool {
        self.cpu.is_some_and(|cpu| cpu >= OVERLOADED_CPU)
    }
}

/// Where a lease is between its grant and its worker. It is given to one poll, or given back, and never both: a task that
/// runs must not be taken from its worker because an earlier poll of the same worker hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// For the poll that waited when it was granted.
    Granted,
    /// Handed out to a later poll, because the worker did not know of it.
    HandedOut,
    /// On its way back to the queue.
    Back,
}

struct LeaseSeen {
    way: Way,
    confirmed: Instant,
    granted: Instant,
    progress: Option<Progress>,
}

/// How far an attempt is, by its worker's word.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// 0 to 1.
    pub progress: Option<f64>,
    /// Free words.
    pub note: Option<String>,
}

struct Poll {
    id: u64,
    wanted: u32,
    /// A decision is under way that may give it something: until that is known it is not asked for anything else.
    taken: bool,
    answer: oneshot::Sender<Vec<Lease>>,
}

/// Polls that a decision under way may give something: workers, and which of their polls.
#[derive(Debug, Default)]
#[must_use = "polls that are never given back wait for nothing"]
pub struct Taken(Vec<(WorkerId, u64)>);

/// What the clock says must end.
#[derive(Debug, Default)]
pub struct Overdue {
    /// Workers silent for their whole TTL.
    pub workers: Vec<WorkerId>,
    /// Leases to end, of workers that live.
    pub leases: Vec<EndLease>,
}

impl Desk {
    /// An empty desk at the beginning of a term.
    pub fn new(since: Instant) -> Self {
        Self {
            since,
            workers: HashMap::new(),
            leases: HashMap::new(),
            polls: HashMap::new(),
            next_poll: 0,
            returning: HashMap::new(),
            held: HashMap::new(),
        }
    }

    /// How many polls wait for work.
    pub fn polls_waiting(&self) -> usize {
        self.polls.len()
    }

    /// The worker was heard of now.
    pub fn heard(&mut self, worker: WorkerId, now: Instant) {
        self.workers
            .entry(worker)
            .or_insert(WorkerSeen {
                heard: now,
                load: None,
            })
            .heard = now;
    }

    /// The worker said how loaded its machine is.
    pub fn loaded(&mut self, worker: WorkerId, load: Load) {
        if let Some(seen) = self.workers.get_mut(&worker) {
            seen.load = Some(load);
        }
    }

    /// How many workers there are, as far as the desk has met them.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// When the worker was last heard of, counted from the term's beginning at the earliest, and its load.
    pub fn worker(&self, worker: WorkerId) -> (Instant, Option<Load>) {
        self.workers
            .get(&worker)
            .map_or((self.since, None), |seen| (seen.heard, seen.load))
    }

    /// The lease was granted, or confirmed by its worker, now.
    pub fn confirm(&mut self, token: Token, now: Instant, progress: Option<Progress>) {
        let seen = self.leases.entry(token).or_insert(LeaseSeen {
            way: Way::Granted,
            confirmed: now,
            granted: now,
            progress: None,
        });
        if !mutated!(HeartbeatIgnored) {
            seen.confirmed = now;
        }
        if progress.is_some() {
            seen.progress = progress;
        }
    }

    /// Hands a lease that its worker does not know of to a poll of that worker, unless it is on its way back.
    pub fn hand_out(&mut self, lease: &Lease, now: Instant) -> bool {
        self.confirm(lease.token, now, None);
        let seen = self.leases.get_mut(&lease.token);
        seen.is_some_and(|seen| {
            let free = seen.way != Way::Back;
            if free {
                seen.way = Way::HandedOut;
            }
            free
        })
    }

    fn is_handed_out(&self, lease: &Lease) -> bool {
        let seen = self.leases.get(&lease.token);
        seen.is_some_and(|seen| seen.way == Way::HandedOut)
    }

    /// What the worker last said of this attempt.
    pub fn progress(&self, token: Token) -> Option<&Progress> {
        self.leases
            .get(&token)
            .and_then(|seen| seen.progress.as_ref())
    }

    /// Lets a poll wait. A worker has one at a time: an older one is answered with nothing.
    pub fn wait(&mut self, worker: WorkerId, wanted: u32) -> (u64, oneshot::Receiver<Vec<Lease>>) {
        let id = self.next_poll;
        self.next_poll += 1;
        let (answer, receiver) = oneshot::channel();
        if let Some(older) = self.polls.insert(
            worker,
            Poll {
                id,
                wanted,
                taken: false,
                answer,
            },
        ) {
            let _ = older.answer.send(Vec::new());
        }
        (id, receiver)
    }

    /// The poll has given up.
    pub fn give_up(&mut self, worker: WorkerId, id: u64) {
        if self.polls.get(&worker).is_some_and(|poll| poll.id == id) {
            self.polls.remove(&worker);
        }
    }

    /// Whether no poll waits.
    pub fn nobody_waits(&self) -> bool {
        self.polls.is_empty()
    }

    /// How many tasks the worker's waiting poll would take, of a decision that is made now.
    pub fn wanted(&self, worker: WorkerId) -> u32 {
        let poll = self.polls.get(&worker).filter(|poll| !poll.taken);
        poll.map_or(0, |poll| poll.wanted)
    }

    /// What the scheduler has to know of a worker besides the table.
    pub fn asking(&self, worker: WorkerId) -> Demand {
        Demand {
            wanted: self.wanted(worker),
            overloaded: self.worker(worker).1.is_some_and(Load::is_too_much),
        }
    }

    /// The worker has brought results and wants more. Not if its machine is overloaded: then it asks with all others, by its
    /// poll. Whether it is noted.
    pub fn returns(&mut self, worker: WorkerId, wanted: u32) -> bool {
        let asks = wanted > 0 && !self.asking(worker).overloaded;
        if asks {
            self.returning.insert(worker, wanted);
        }
        asks
    }

    /// Its results are in the log, or are not: it waits by its poll, as others do.
    pub fn has_returned(&mut self, worker: WorkerId) {
        self.returning.remove(&worker);
    }

    /// Who is to be thought of in an entry that is about to be written, no more than so many: those that return, once, and
    /// polls that wait and are free.
    pub fn asks(&mut self, most: usize) -> Vec<WorkerDemand> {
        let ask = |worker, wanted, overloaded| WorkerDemand {
            worker,
            wanted,
            overloaded,
        };
        let mut asks: Vec<WorkerDemand> = self
            .returning
            .extract_if(|_, _| true)
            .take(most)
            .map(|(worker, wanted)| ask(worker, wanted, false))
            .collect();
        let free = self.polls.iter().filter(|(_, poll)| !poll.taken);
        let free = free.filter(|(_, poll)| poll.wanted > 0);
        let left = most - asks.len();
        asks.extend(
            free.take(left)
                .map(|(&worker, poll)| ask(worker, poll.wanted, self.asking(worker).overloaded)),
        );
        asks
    }

    /// Takes the polls of these workers for a decision; given back by [`Desk::give_back`].
    pub fn take(&mut self, workers: impl IntoIterator<Item = WorkerId>) -> Taken {
        let mut taken = Vec::new();
        for worker in workers {
            if let Some(poll) = self.polls.get_mut(&worker)
                && !poll.taken
            {
                poll.taken = true;
                taken.push((worker, poll.id));
            }
        }
        Taken(taken)
    }

    /// The decision was made, or was not: those that it gave nothing wait on, free again.
    pub fn give_back(&mut self, taken: Taken) {
        for (worker, id) in taken.0 {
            if let Some(poll) = self.polls.get_mut(&worker)
                && poll.id == id
            {
                poll.taken = false;
            }
        }
    }

    /// Hands leases to their workers' waiting polls, or holds them for the next.
    pub fn deliver(&mut self, leases: &[Lease], now: Instant) {
        let mut by_worker: HashMap<WorkerId, Vec<Lease>> = HashMap::new();
        for lease in leases {
            self.confirm(lease.token, now, None);
            if !self.is_handed_out(lease) {
                by_worker.entry(lease.worker).or_default().push(*lease);
            }
        }
        for (worker, leases) in by_worker {
            let missed = match self.polls.remove(&worker) {
                Some(poll) => poll.answer.send(leases).err(),
                None => Some(leases),
            };
            if let Some(leases) = missed {
                self.hold(worker, leases, now);
            }
        }
    }

    /// Keeps leases that reached no poll for the worker's next, but for those that another poll was given.
    pub fn hold(&mut self, worker: WorkerId, mut leases: Vec<Lease>, now: Instant) {
        leases.retain(|lease| !self.is_handed_out(lease));
        if !leases.is_empty() {
            let fresh = || Held {
                since: now,
                leases: Vec::new(),
            };
            let held = self.held.entry(worker).or_insert_with(fresh);
            held.leases.extend(leases);
        }
    }

    /// What is held for the worker, to be handed out or held again.
    pub fn take_held(&mut self, worker: WorkerId) -> Vec<Lease> {
        let held = self.held.remove(&worker);
        held.map_or_else(Vec::new, |held| held.leases)
    }

    /// Gives up what was held for too long: its worker does not ask any more.
    pub fn unclaimed(&mut self, now: Instant) -> Vec<EndLease> {
        let late = |held: &Held| now.saturating_duration_since(held.since) > HELD_MAX;
        let mut ended = Vec::new();
        for (_, held) in self.held.extract_if(|_, held| late(held)) {
            for lease in held.leases {
                if let Some(seen) = self.leases.get_mut(&lease.token)
                    && seen.way == Way::Granted
                {
                    seen.way = Way::Back;
                    ended.push(end(&lease, EndReason::Returned));
                }
            }
        }
        ended
    }

    /// Ends every waiting poll with nothing; its worker asks again.
    pub fn dismiss(&mut self, worker: WorkerId) {
        if let Some(poll) = self.polls.remove(&worker) {
            let _ = poll.answer.send(Vec::new());
        }
    }

    /// Adds time that this process itself slept through (stopped, or starved) to what everyone has left: nobody could
    /// be heard of then.
    pub fn forgive(&mut self, slept: Duration, now: Instant) {
        let later = |at: &mut Instant| *at = (*at + slept).min(now);
        later(&mut self.since);
        for seen in self.workers.values_mut() {
            later(&mut seen.heard);
        }
        for seen in self.leases.values_mut() {
            later(&mut seen.confirmed);
        }
    }

    /// Judges every worker and lease of the table by this clock, and forgets those that are no more. Those it meets for
    /// the first time begin now.
    pub fn overdue(&mut self, table: &Table, timing: LeaseTiming, now: Instant) -> Overdue {
        let lease = match mutated!(SilenceNeverEndsALease) {
            true => Duration::MAX,
            false => Duration::from_millis(timing.lease_ms),
        };
        let met = match mutated!(LeasesExpiredAtElection) {
            true => now.checked_sub(lease * 2).unwrap_or(now),
            false => now,
        };
        let mut overdue = Overdue::default();
        let is_present = |worker: &Worker| worker.state().is_present();
        let mut present = 0;
        for worker in table.workers().filter(|worker| is_present(worker)) {
            present += 1;
            let seen = self.workers.entry(worker.id).or_insert(WorkerSeen {
                heard: met,
                load: None,
            });
            if now.saturating_duration_since(seen.heard) > lease {
                overdue.workers.push(worker.id);
            }
        }
        if self.workers.len() > present {
            self.workers
                .retain(|id, _| table.worker(*id).is_some_and(is_present));
        }

        let mut held = HashMap::with_capacity(self.leases.len());
        for lease_held in table.leases() {
            let seen = self.leases.remove(&lease_held.token).unwrap_or(LeaseSeen {
                way: Way::Granted,
                confirmed: met,
                granted: now,
                progress: None,
            });
            if now.saturating_duration_since(seen.confirmed) > lease {
                overdue.leases.push(end(&lease_held, EndReason::Expired));
            } else if let Some(timeout_ms) = timeout_ms(table, lease_held.task)
                && now.saturating_duration_since(seen.granted)
                    > Duration::from_millis(timeout_ms) + TIMEOUT_GRACE
            {
                overdue.leases.push(end(&lease_held, EndReason::TimedOut));
            }
            held.insert(lease_held.token, seen);
        }
        self.leases = held;
        // A lost worker's leases end with it.
        overdue.leases.retain(|ended| {
            table
                .lease(ended.task)
                .is_none_or(|lease| !overdue.workers.contains(&lease.worker))
        });
        overdue
    }
}

fn end(lease: &Lease, reason: EndReason) -> EndLease {
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

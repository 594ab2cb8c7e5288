//! Long-poll registry: the workers' polls that wait for tasks, and the leases that wait for a poll.
//!
//! # Invariants
//!
//! - A worker has at most one waiting poll; a newer one ends the older with an empty answer.
//! - A poll is in at most one decision at a time: see [`PollReservation`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use triarch_table::WorkerId;
use triarch_table::command::WorkerDemand;
use triarch_table::command::reply::Lease;

/// Time that granted leases wait for their worker's next poll. That poll usually follows the last at once.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Waiting polls by worker. See the module.
#[derive(Default)]
pub struct PollRegistry {
    polls: HashMap<WorkerId, WaitingPoll>,
    next_id: u64,
    /// Workers whose results are on their way into the log, with the number of tasks they want next. The demand is
    /// decided in the same entry, right behind the results that free their slots.
    refills: HashMap<WorkerId, u32>,
    /// Leases that were granted while the worker's poll ended. The worker's next poll takes them.
    undelivered: HashMap<WorkerId, UndeliveredLeases>,
}

struct WaitingPoll {
    id: u64,
    wanted: u32,
    /// Set while a decision in flight may give this poll something. Until its outcome is known, no other decision
    /// includes the poll.
    reserved: bool,
    sender: oneshot::Sender<Vec<Lease>>,
}

/// Leases that no poll has taken.
struct UndeliveredLeases {
    since: Instant,
    leases: Vec<Lease>,
}

/// Polls reserved for a decision in flight, by worker and poll id.
#[derive(Debug, Default)]
#[must_use = "polls that are never released wait in vain"]
pub struct PollReservation(Vec<(WorkerId, u64)>);

impl PollRegistry {
    /// Returns the number of polls that wait for tasks.
    pub fn len(&self) -> usize {
        self.polls.len()
    }

    /// Returns whether no poll waits.
    pub fn is_empty(&self) -> bool {
        self.polls.is_empty()
    }

    /// Registers a poll. An older one of the same worker is answered with nothing.
    pub fn register(
        &mut self,
        worker: WorkerId,
        wanted: u32,
    ) -> (u64, oneshot::Receiver<Vec<Lease>>) {
        let id = self.next_id;
        self.next_id += 1;
        let (sender, receiver) = oneshot::channel();
        let poll = WaitingPoll {
            id,
            wanted,
            reserved: false,
            sender,
        };
        if let Some(older) = self.polls.insert(worker, poll) {
            let _ = older.sender.send(Vec::new());
        }
        (id, receiver)
    }

    /// Removes the poll, if it is still the worker's current one.
    pub fn remove(&mut self, worker: WorkerId, id: u64) {
        if self.polls.get(&worker).is_some_and(|poll| poll.id == id) {
            self.polls.remove(&worker);
        }
    }

    /// Ends the worker's waiting poll with an empty answer; the worker polls again.
    pub fn close(&mut self, worker: WorkerId) {
        if let Some(poll) = self.polls.remove(&worker) {
            let _ = poll.sender.send(Vec::new());
        }
    }

    /// Answers the worker's waiting poll. Gives the leases back if no poll takes them.
    pub fn answer(&mut self, worker: WorkerId, leases: Vec<Lease>) -> Result<(), Vec<Lease>> {
        match self.polls.remove(&worker) {
            Some(poll) => poll.sender.send(leases),
            None => Err(leases),
        }
    }

    /// Returns the number of tasks that the worker's waiting poll would take from a decision made now.
    pub fn wanted(&self, worker: WorkerId) -> u32 {
        let poll = self.polls.get(&worker).filter(|poll| !poll.reserved);
        poll.map_or(0, |poll| poll.wanted)
    }

    /// Records that the worker, whose results are on their way into the log, wants more tasks.
    pub fn request_refill(&mut self, worker: WorkerId, wanted: u32) {
        self.refills.insert(worker, wanted);
    }

    /// Drops the worker's request for more tasks; from now on only its poll counts.
    pub fn cancel_refill(&mut self, worker: WorkerId) {
        self.refills.remove(&worker);
    }

    /// Returns demand that an entry about to be written can serve, from at most `limit` workers. Refills come first,
    /// each once, then polls that wait unreserved.
    pub fn open_demand(
        &mut self,
        limit: usize,
        is_overloaded: impl Fn(WorkerId) -> bool,
    ) -> Vec<WorkerDemand> {
        let entry = |worker, wanted, overloaded| WorkerDemand {
            worker,
            wanted,
            overloaded,
        };
        let mut demand: Vec<WorkerDemand> = self
            .refills
            .extract_if(|_, _| true)
            .take(limit)
            .map(|(worker, wanted)| entry(worker, wanted, false))
            .collect();
        let open = self.polls.iter().filter(|(_, poll)| !poll.reserved);
        let open = open.filter(|(_, poll)| poll.wanted > 0);
        let left = limit - demand.len();
        demand.extend(
            open.take(left)
                .map(|(&worker, poll)| entry(worker, poll.wanted, is_overloaded(worker))),
        );
        demand
    }

    /// Reserves the polls of these workers for a decision, until [`PollRegistry::release`].
    pub fn reserve(&mut self, workers: impl IntoIterator<Item = WorkerId>) -> PollReservation {
        let mut reserved = Vec::new();
        for worker in workers {
            if let Some(poll) = self.polls.get_mut(&worker)
                && !poll.reserved
            {
                poll.reserved = true;
                reserved.push((worker, poll.id));
            }
        }
        PollReservation(reserved)
    }

    /// Releases polls once the decision's outcome is known. Polls that got nothing wait on.
    pub fn release(&mut self, reservation: PollReservation) {
        for (worker, id) in reservation.0 {
            if let Some(poll) = self.polls.get_mut(&worker)
                && poll.id == id
            {
                poll.reserved = false;
            }
        }
    }

    /// Keeps leases that reached no poll for the worker's next one.
    pub fn hold_undelivered(&mut self, worker: WorkerId, leases: Vec<Lease>, now: Instant) {
        if leases.is_empty() {
            return;
        }
        let empty = || UndeliveredLeases {
            since: now,
            leases: Vec::new(),
        };
        let held = self.undelivered.entry(worker).or_insert_with(empty);
        held.leases.extend(leases);
    }

    /// Takes the leases that wait for a poll of this worker.
    pub fn take_undelivered(&mut self, worker: WorkerId) -> Vec<Lease> {
        let held = self.undelivered.remove(&worker);
        held.map_or_else(Vec::new, |held| held.leases)
    }

    /// Takes all leases that have waited for a poll longer than [`DELIVERY_TIMEOUT`], because their workers no longer
    /// poll.
    pub fn expire_undelivered(&mut self, now: Instant) -> Vec<Lease> {
        let late =
            |held: &UndeliveredLeases| now.saturating_duration_since(held.since) > DELIVERY_TIMEOUT;
        self.undelivered
            .extract_if(|_, held| late(held))
            .flat_map(|(_, held)| held.leases)
            .collect()
    }
}

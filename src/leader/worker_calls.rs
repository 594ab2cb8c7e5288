//! Workers' visits to the leader: heartbeats and polls. Neither writes to the log by itself.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use triarch_table::command::reply::Lease;
use triarch_table::types::state::{TaskState, WorkerState};
use triarch_table::{Table, TaskId, Token, WorkerId};

use super::Lead;
use crate::leader::leader_state::{Desk, Load, Progress};

/// One attempt that a worker says it is running.
#[derive(Debug, Clone)]
pub struct Running {
    /// The task; `None` for a text that is no task's id.
    pub task: Option<TaskId>,
    /// The id as the worker wrote it, to be told back.
    pub spelled: String,
    /// The lease it runs under.
    pub token: Token,
    /// How far it is.
    pub progress: Option<Progress>,
}

/// What a worker is told about what it runs.
#[derive(Debug, Default)]
pub struct Orders {
    /// Stop these: cancelled.
    pub cancel: Vec<String>,
    /// Stop these: the lease is not this worker's any more.
    pub lost: Vec<String>,
    /// Take nothing new.
    pub drain: bool,
    /// When to be heard of next.
    pub heartbeat_ms: u64,
}

/// Why a worker's visit is not answered.
#[derive(Debug)]
pub enum Turned {
    /// Nobody knows this worker (any more): it must register again.
    UnknownWorker,
    /// The term is over: another node leads, or soon will.
    TermOver,
}

impl Lead {
    /// The worker is heard of, its leases are confirmed, and it is told what to stop.
    pub fn heartbeat(
        &self,
        worker: WorkerId,
        running: &[Running],
        load: Option<Load>,
    ) -> Result<Orders, Turned> {
        let now = Instant::now();
        let table = self.table.read();
        let mut orders = Orders {
            drain: self.known(&table, worker)?,
            ..Orders::default()
        };
        let mut desk = self.desk.lock();
        desk.heard(worker, now);
        orders.heartbeat_ms = self.timing.heartbeat_ms_of(desk.workers());
        if let Some(load) = load {
            desk.loaded(worker, load);
        }
        for attempt in running {
            let lease = attempt.task.and_then(|task| table.lease(task));
            if lease.is_some_and(|lease| lease.worker == worker && lease.token == attempt.token) {
                desk.confirm(attempt.token, now, attempt.progress.clone());
                continue;
            }
            let cancelled = attempt
                .task
                .and_then(|task| table.task(task))
                .is_some_and(|task| task.state() == TaskState::Cancelled);
            if cancelled {
                orders.cancel.push(attempt.spelled.clone());
            } else {
                orders.lost.push(attempt.spelled.clone());
            }
        }
        Ok(orders)
    }

    /// Leases for the worker: at once if there are any, else when there are, else none when `wait` is over.
    ///
    /// `running` is what the worker says it has. Leases it holds but does not name never reached it (the answer got
    /// lost, or the leader that granted them died): they are handed out again, under the same token.
    pub async fn poll(
        &self,
        worker: WorkerId,
        wanted: u32,
        wait: Duration,
        running: Option<&[Running]>,
    ) -> Result<Vec<Lease>, Turned> {
        let named = Named::by(running);
        let (id, receiver) = {
            let table = self.table.read();
            self.known(&table, worker)?;
            let mut desk = self.desk.lock();
            desk.heard(worker, Instant::now());
            let ready = waiting_for(&table, &mut desk, worker, &named, wanted);
            if !ready.is_empty() {
                // An older poll of this worker cannot be waiting for anyone any more.
                desk.dismiss(worker);
                return Ok(ready);
            }
            if wanted == 0 && wait.is_zero() {
                return Ok(Vec::new());
            }
            desk.wait(worker, wanted)
        };
        let mut waiting = WaitingPoll {
            lead: self,
            worker,
            id,
            receiver,
        };
        self.table.ready.notify_one();
        let mut leases = tokio::select! {
            leases = &mut waiting.receiver => leases.unwrap_or_default(),
            () = self.over() => return Err(Turned::TermOver),
            () = tokio::time::sleep(wait) => {
                self.desk.lock().give_up(worker, id);
                // The dispatcher may have been quicker.
                waiting.receiver.try_recv().unwrap_or_default()
            }
        };
        leases.retain(|lease| !named.has(lease));
        Ok(leases)
    }

    /// A worker has brought results and wants more, until what is given back is dropped: while the results are on their way
    /// into the log.
    pub fn returning(&self, worker: WorkerId, wanted: u32) -> Option<Returning<'_>> {
        let returns = self.desk.lock().returns(worker, wanted);
        returns.then_some(Returning { lead: self, worker })
    }

    /// Whether the worker drains; turned away unless it is there.
    pub(super) fn known(&self, table: &Table, worker: WorkerId) -> Result<bool, Turned> {
        match table.worker(worker).map(|worker| worker.state()) {
            Some(
                WorkerState::Live
                | WorkerState::Paused
                | WorkerState::Quarantined
                | WorkerState::Probation,
            ) => Ok(false),
            Some(WorkerState::Draining) => Ok(true),
            Some(WorkerState::Lost | WorkerState::Left) | None => Err(Turned::UnknownWorker),
        }
    }
}

/// The leases that a worker says it has. It may have been told of one by the table before the grant's own answer came
/// to the dispatcher: then it must not be told again.
struct Named(Option<HashSet<Token>>);

impl Named {
    fn by(running: Option<&[Running]>) -> Self {
        Self(running.map(|running| running.iter().map(|attempt| attempt.token).collect()))
    }

    fn has(&self, lease: &Lease) -> bool {
        self.0
            .as_ref()
            .is_some_and(|named| named.contains(&lease.token))
    }
}

/// Leases that the worker has but was not told of: granted between two of its polls, or told in an answer that got
/// lost. At most `wanted`; the rest stays where it is.
fn waiting_for(
    table: &Table,
    desk: &mut Desk,
    worker: WorkerId,
    named: &Named,
    wanted: u32,
) -> Vec<Lease> {
    let mut found = desk.take_held(worker);
    found.retain(|lease| table.lease(lease.task) == Some(*lease) && !named.has(lease));
    if named.0.is_some() {
        let known: HashSet<Token> = found.iter().map(|lease| lease.token).collect();
        let unknown = |lease: &Lease| !known.contains(&lease.token) && !named.has(lease);
        found.extend(table.leases_of(worker).filter(unknown));
    }
    let now = Instant::now();
    let rest = found.split_off(found.len().min(wanted as usize));
    desk.hold(worker, rest, now);
    found.retain(|lease| desk.hand_out(lease, now));
    found
}

/// See [`Lead::returning`].
#[must_use = "dropped at once, it asks for nothing"]
pub struct Returning<'a> {
    lead: &'a Lead,
    worker: WorkerId,
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        self.lead.desk.lock().has_returned(self.worker);
    }
}

/// Gives up its place when the worker hangs up, and keeps what was on its way for the worker's next poll.
struct WaitingPoll<'a> {
    lead: &'a Lead,
    worker: WorkerId,
    id: u64,
    receiver: tokio::sync::oneshot::Receiver<Vec<Lease>>,
}

impl Drop for WaitingPoll<'_> {
    fn drop(&mut self) {
        let mut desk = self.lead.desk.lock();
        desk.give_up(self.worker, self.id);
        if let Ok(leases) = self.receiver.try_recv() {
            desk.hold(self.worker, leases, Instant::now());
        }
    }
}

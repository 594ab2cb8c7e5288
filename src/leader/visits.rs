//! Workers' visits to the leader: heartbeats and polls. Neither writes to the log by itself.

use std::time::{Duration, Instant};

use triarch_table::command::Lease;
use triarch_table::model::{TaskState, WorkerState};
use triarch_table::{TaskId, Token, WorkerId};

use super::Lead;
use super::desk::{Load, Progress};

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
        let (id, receiver) = {
            let table = self.table.read();
            self.known(&table, worker)?;
            let mut desk = self.desk.lock();
            desk.heard(worker, Instant::now());
            if let Some(running) = running {
                let now = Instant::now();
                let missing: Vec<Lease> = table
                    .leases_of(worker)
                    .filter(|lease| !running.iter().any(|attempt| attempt.token == lease.token))
                    .filter(|lease| desk.hand_out(lease, now))
                    .collect();
                if !missing.is_empty() {
                    // An older poll of this worker cannot be waiting for anyone any more.
                    desk.dismiss(worker);
                    return Ok(missing);
                }
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
        tokio::select! {
            leases = &mut waiting.receiver => Ok(leases.unwrap_or_default()),
            () = self.over() => Err(Turned::TermOver),
            () = tokio::time::sleep(wait) => {
                self.desk.lock().give_up(worker, id);
                // The dispatcher may have been quicker.
                Ok(waiting.receiver.try_recv().unwrap_or_default())
            }
        }
    }

    /// Whether the worker drains; turned away unless it is live or draining.
    fn known(&self, table: &triarch_table::Table, worker: WorkerId) -> Result<bool, Turned> {
        match table.worker(worker).map(|worker| worker.state()) {
            Some(WorkerState::Live) => Ok(false),
            Some(WorkerState::Draining) => Ok(true),
            Some(WorkerState::Lost | WorkerState::Left) | None => Err(Turned::UnknownWorker),
        }
    }
}

/// Gives up its place when the worker hangs up, and hands back what was on its way to it.
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
        let undelivered = desk.take_back(self.receiver.try_recv().unwrap_or_default());
        drop(desk);
        if !undelivered.is_empty() {
            // A full channel leaves them to end by themselves.
            let _ = self.lead.returned.try_send(undelivered);
        }
    }
}

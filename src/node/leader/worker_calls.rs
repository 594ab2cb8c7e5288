//! Worker calls that the leader answers from memory: heartbeats, long polls and live output. None of them writes to the log,
//! but for the end of a worker's silence that the log has.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use triarch_areas::task_output::KeptOutput;
use triarch_areas::worker_silence::SilenceCommand;
use triarch_raft::ProposeError;
use triarch_sdk::output_tail::{StreamOffsets, TailPart};
use triarch_table::command::reply::Lease;
use triarch_table::types::state::{TaskState, WorkerState};
use triarch_table::{Table, TaskId, Token, WorkerId};

use super::leader_state::LeaderState;
use super::lease_tracker::{AttemptProgress, WorkerLoad};
use super::live_output::OutputChunk;
use super::term::LeaderTerm;

/// One attempt that a worker reports as running.
#[derive(Debug, Clone)]
pub struct RunningAttempt {
    /// Task id; `None` for a text that is not one.
    pub task: Option<TaskId>,
    /// The task id as the worker spelled it, for the answer.
    pub spelled: String,
    /// Lease of the attempt.
    pub token: Token,
    /// Progress, if the worker reports any.
    pub progress: Option<AttemptProgress>,
}

/// Directives to a worker about the tasks it runs.
#[derive(Debug, Default)]
pub struct WorkerDirectives {
    /// Cancelled tasks to stop.
    pub cancel: Vec<String>,
    /// Tasks to stop because the worker no longer holds the lease.
    pub lost: Vec<String>,
    /// Whether the worker must take no more tasks.
    pub drain: bool,
    /// Interval until the next heartbeat.
    pub heartbeat_ms: u64,
}

/// Reason for which a worker's call is refused.
#[derive(Debug)]
pub enum WorkerCallError {
    /// The worker is not registered, or no longer. It must register again.
    UnknownWorker,
    /// The term is over, because another node leads or soon will.
    TermOver,
    /// The end of the worker's recorded silence was not committed, so the call counts for nothing.
    NotCommitted(ProposeError),
}

/// Acknowledgement of one attempt's output: how much of it the leader has.
pub struct OutputAck {
    /// The task id as the worker spelled it.
    pub task: String,
    /// Lease of the attempt.
    pub token: Token,
    /// Ends of the attempt's streams in the leader's buffer.
    pub ends: StreamOffsets,
}

impl LeaderTerm {
    /// Heartbeat: records the contact, confirms the worker's leases, and returns directives.
    ///
    /// It writes to the log only for a worker whose silence is recorded there.
    pub async fn heartbeat(
        &self,
        worker: WorkerId,
        running: &[RunningAttempt],
        load: Option<WorkerLoad>,
    ) -> Result<WorkerDirectives, WorkerCallError> {
        let (directives, ended) = self.record_heartbeat(worker, running, load)?;
        if let Some(contact) = ended {
            let committed = self.propose_silence(&contact).await;
            committed.map_err(WorkerCallError::NotCommitted)?;
        }
        Ok(directives)
    }

    /// Records a heartbeat in memory. Also returns the command that must be committed before the worker is answered, if
    /// its silence is recorded: otherwise the next leader would count a silence that has ended.
    fn record_heartbeat(
        &self,
        worker: WorkerId,
        running: &[RunningAttempt],
        load: Option<WorkerLoad>,
    ) -> Result<(WorkerDirectives, Option<SilenceCommand>), WorkerCallError> {
        let now = Instant::now();
        let table = self.table.read();
        let mut directives = WorkerDirectives {
            drain: is_draining(&table, worker)?,
            ..WorkerDirectives::default()
        };
        let leases = &mut self.state.lock().leases;
        leases.record_contact(worker, now);
        let recorded = self.table.worker_silence(worker);
        let open = leases.open_silence(worker, recorded) && !mutated!(SilenceOutlivesContact);
        let ended = open.then_some(SilenceCommand::Contact {
            worker,
            contacts: recorded.contacts,
        });
        directives.heartbeat_ms = self.timing.heartbeat_ms_for(leases.worker_count());
        if let Some(load) = load {
            leases.record_load(worker, load);
        }
        for attempt in running {
            let lease = attempt.task.and_then(|task| table.lease(task));
            if lease.is_some_and(|lease| lease.worker == worker && lease.token == attempt.token) {
                leases.confirm(attempt.token, now, attempt.progress.clone());
                continue;
            }
            let cancelled = attempt
                .task
                .and_then(|task| table.task(task))
                .is_some_and(|task| task.state() == TaskState::Cancelled);
            if cancelled {
                directives.cancel.push(attempt.spelled.clone());
            } else {
                directives.lost.push(attempt.spelled.clone());
            }
        }
        Ok((directives, ended))
    }

    /// Records that another worker claims the name of this one. Returns for how long leaders have not heard from it.
    pub fn record_claim(&self, holder: WorkerId) -> Duration {
        let leases = &mut self.state.lock().leases;
        leases.record_claim(holder, Instant::now())
    }

    /// Long poll: returns leases for the worker, at once if there are any, else as soon as there are, else none after
    /// `wait`.
    ///
    /// `running` lists the attempts that the worker reports as running. Leases it holds but does not report never
    /// reached it: the answer got lost, or the leader that granted them died. They are delivered again, under the same
    /// token.
    pub async fn poll(
        &self,
        worker: WorkerId,
        wanted: u32,
        wait: Duration,
        running: Option<&[RunningAttempt]>,
    ) -> Result<Vec<Lease>, WorkerCallError> {
        let reported = ReportedLeases::of(running);
        let (id, receiver) = {
            let table = self.table.read();
            is_draining(&table, worker)?;
            let mut state = self.state.lock();
            state.leases.record_contact(worker, Instant::now());
            let ready = deliverable_leases(&table, &mut state, worker, &reported, wanted);
            if !ready.is_empty() {
                // No client can still be waiting for an older poll of this worker.
                state.polls.close(worker);
                return Ok(ready);
            }
            if wanted == 0 && wait.is_zero() {
                return Ok(Vec::new());
            }
            state.polls.register(worker, wanted)
        };
        let mut poll = PollGuard {
            lead: self,
            worker,
            id,
            receiver,
        };
        self.table.ready.notify_one();
        let mut leases = tokio::select! {
            leases = &mut poll.receiver => leases.unwrap_or_default(),
            () = self.ended() => return Err(WorkerCallError::TermOver),
            () = tokio::time::sleep(wait) => {
                self.state.lock().polls.remove(worker, id);
                // The dispatcher may have answered first.
                poll.receiver.try_recv().unwrap_or_default()
            }
        };
        leases.retain(|lease| !reported.contains(lease));
        Ok(leases)
    }

    /// Requests more tasks for a worker whose results are on their way into the log, until the guard is dropped.
    /// Returns `None` if the request was not accepted.
    pub fn request_refill(&self, worker: WorkerId, wanted: u32) -> Option<RefillGuard<'_>> {
        let accepted = self.state.lock().request_refill(worker, wanted);
        accepted.then_some(RefillGuard { lead: self, worker })
    }

    /// Takes output of a worker's attempts. The answer leaves out attempts whose lease the worker does not hold.
    pub fn take_output(
        &self,
        worker: WorkerId,
        chunks: &[OutputChunk<'_>],
    ) -> Result<Vec<OutputAck>, WorkerCallError> {
        let leased: Vec<Option<TaskId>> = {
            let table = self.table.read();
            is_draining(&table, worker)?;
            let leased = |chunk: &OutputChunk<'_>| {
                let task = chunk.task.parse().ok()?;
                let lease = table.lease(task)?;
                (lease.worker == worker && lease.token == chunk.token).then_some(task)
            };
            chunks.iter().map(leased).collect()
        };
        let mut acks: Vec<OutputAck> = Vec::new();
        let mut positions: HashMap<Token, usize> = HashMap::new();
        let mut updated: Vec<TaskId> = Vec::new();
        {
            let mut output = self.output.lock();
            for (chunk, task) in chunks.iter().zip(leased) {
                let Some(task) = task else { continue };
                let ends = output.place(chunk);
                match positions.get(&chunk.token) {
                    Some(at) => acks[*at].ends = ends,
                    None => {
                        positions.insert(chunk.token, acks.len());
                        updated.push(task);
                        acks.push(OutputAck {
                            task: chunk.task.to_owned(),
                            token: chunk.token,
                            ends,
                        });
                    }
                }
            }
        }
        for task in updated {
            self.table.waiters.task_updated(task);
        }
        Ok(acks)
    }

    /// Returns the beginning and the end of what an attempt has written, if any of it is here.
    pub fn kept_output(&self, task: TaskId, token: Token) -> Option<KeptOutput> {
        self.output.lock().kept(task, token)
    }

    /// Returns output of an attempt from these offsets on; `None` if none of it is kept.
    pub fn output_since(&self, token: Token, from: StreamOffsets) -> Option<TailPart> {
        self.output.lock().since(token, from)
    }
}

/// Returns whether a registered worker drains.
///
/// # Errors
///
/// [`WorkerCallError::UnknownWorker`] for a worker that is not registered, was lost, or has left.
fn is_draining(table: &Table, worker: WorkerId) -> Result<bool, WorkerCallError> {
    match table.worker(worker).map(|worker| worker.state()) {
        Some(
            WorkerState::Live
            | WorkerState::Paused
            | WorkerState::Quarantined
            | WorkerState::Probation,
        ) => Ok(false),
        Some(WorkerState::Draining) => Ok(true),
        Some(WorkerState::Lost | WorkerState::Left) | None => Err(WorkerCallError::UnknownWorker),
    }
}

/// Leases that a worker reports as held, if it reports any. An earlier poll may have found one in the table before the
/// grant's own reply came to the dispatcher. Such a lease must not be delivered twice.
struct ReportedLeases(Option<HashSet<Token>>);

impl ReportedLeases {
    fn of(running: Option<&[RunningAttempt]>) -> Self {
        Self(running.map(|running| running.iter().map(|attempt| attempt.token).collect()))
    }

    fn contains(&self, lease: &Lease) -> bool {
        self.0
            .as_ref()
            .is_some_and(|reported| reported.contains(&lease.token))
    }
}

/// Returns leases that the worker holds and does not know of: granted between two of its polls, or delivered in an
/// answer that got lost. At most `wanted`; the rest is held for the next poll.
fn deliverable_leases(
    table: &Table,
    state: &mut LeaderState,
    worker: WorkerId,
    reported: &ReportedLeases,
    wanted: u32,
) -> Vec<Lease> {
    let mut found = state.polls.take_undelivered(worker);
    found.retain(|lease| table.lease(lease.task) == Some(*lease) && !reported.contains(lease));
    if reported.0.is_some() {
        let known: HashSet<Token> = found.iter().map(|lease| lease.token).collect();
        let unknown = |lease: &Lease| !known.contains(&lease.token) && !reported.contains(lease);
        found.extend(table.leases_of(worker).filter(unknown));
    }
    let now = Instant::now();
    let rest = found.split_off(found.len().min(wanted as usize));
    state.hold_undelivered(worker, rest, now);
    found.retain(|lease| state.leases.mark_delivered(lease, now));
    found
}

/// Guard of a request for more tasks. See [`LeaderTerm::request_refill`].
#[must_use = "a request that is dropped at once has no effect"]
pub struct RefillGuard<'a> {
    lead: &'a LeaderTerm,
    worker: WorkerId,
}

impl Drop for RefillGuard<'_> {
    fn drop(&mut self) {
        self.lead.state.lock().polls.cancel_refill(self.worker);
    }
}

/// Registered poll. When its worker hangs up, it is removed, and leases on their way to it are kept for the next poll.
struct PollGuard<'a> {
    lead: &'a LeaderTerm,
    worker: WorkerId,
    id: u64,
    receiver: tokio::sync::oneshot::Receiver<Vec<Lease>>,
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.lead.state.lock();
        state.polls.remove(self.worker, self.id);
        if let Ok(leases) = self.receiver.try_recv() {
            state.hold_undelivered(self.worker, leases, Instant::now());
        }
    }
}

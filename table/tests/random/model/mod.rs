//! The table's rules in their simplest form: lists are searched, and timers are computed at every call. The model is
//! written from the documentation of the commands, not from the table's code. It shares only the public types with it.

mod attempts;
mod compare;
mod dependencies;
mod dependency_graph;
mod jobs;
mod parts;
mod plan;
mod queues;
mod retry;
mod schedules;
mod set_time_back;
mod time;
mod workers;

use std::collections::BTreeMap;

use bytes::Bytes;
use triarch_table::command::reply::Refusal;
use triarch_table::command::{DependencyCondition, EndReason, NewTask, OnFailure, RegisterWorker};
use triarch_table::records::task::CancelCause;
use triarch_table::types::state::{TaskState, WorkerState};
use triarch_table::{Command, JobId, Limits, Reply, Stamp, TaskId, Token, WorkerId};

use attempts::Retry;
pub use dependency_graph::{IN_A_CYCLE, is_in_a_cycle};
use parts::ModelStaged;
use queues::ModelQueue;
use schedules::ModelSchedule;

#[derive(Debug)]
struct ModelTask {
    id: TaskId,
    job: JobId,
    new: NewTask,
    /// Its dependencies, each with the condition on its end.
    after: Vec<(TaskId, DependencyCondition)>,
    /// Number of them whose end is not counted yet.
    on: usize,
    state: TaskState,
    /// Earliest start in Unix ms, and delay in ms after the last dependency has succeeded.
    ready: (u64, u64),
    until_ms: u64,
    position: u64,
    since_ms: u64,
    holder: Option<(WorkerId, Token)>,
    attempt: u32,
    failures: u32,
    losses: u32,
    expires_ms: Option<u64>,
    cause: Option<CancelCause>,
    result: Option<Bytes>,
    error: Option<Bytes>,
    /// Token, worker, outcome and reported error of each attempt.
    history: Vec<(Token, WorkerId, &'static str, Option<Bytes>)>,
}

#[derive(Debug)]
struct ModelJob {
    id: JobId,
    on_failure: OnFailure,
    queue: String,
    key: Option<(String, Body)>,
    tasks: Vec<TaskId>,
    /// The tasks as answered: with those that replace deduplicated ones.
    answer: Vec<TaskId>,
    finished_ms: Option<u64>,
    /// The jobs it comes after, each with the condition on its end and whether that is met.
    after_jobs: Vec<(JobId, DependencyCondition, Option<bool>)>,
}

#[derive(Debug)]
struct ModelWorker {
    id: WorkerId,
    is: RegisterWorker,
    state: WorkerState,
    /// Tasks that failed on it since its last success, each with its queue and the number of successes there by then.
    streak: Vec<(TaskId, String, u64)>,
    until_ms: u64,
    round: u32,
    gone_ms: u64,
}

/// Digest of a submission, and the digests of the parts it came in.
type Body = ([u8; 32], Vec<[u8; 32]>);

struct RetiredKey {
    key: String,
    body: Body,
    job: JobId,
    tasks: Vec<TaskId>,
    at_ms: u64,
}

struct AnsweredRequest {
    request: String,
    asked: Command,
    reply: Reply,
    at_ms: u64,
}

/// The expected state of the table. Its rules are in the other files of this folder.
pub struct Model {
    limits: Limits,
    now_ms: u64,
    last_position: u64,
    tasks: BTreeMap<TaskId, ModelTask>,
    jobs: BTreeMap<JobId, ModelJob>,
    workers: BTreeMap<WorkerId, ModelWorker>,
    queues: BTreeMap<String, ModelQueue>,
    schedules: BTreeMap<String, ModelSchedule>,
    staged: BTreeMap<String, ModelStaged>,
    /// Virtual time of fair queueing.
    virtual_time: u64,
    answered: Vec<AnsweredRequest>,
    retired_keys: Vec<RetiredKey>,
    // Index of the current entry, and the ids it has made: jobs, tasks, workers, leases.
    index: u64,
    made: [u64; 4],
}

type ApplyResult = Result<Reply, Refusal>;

impl Model {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now_ms: 0,
            last_position: 0,
            tasks: BTreeMap::new(),
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            queues: BTreeMap::new(),
            schedules: BTreeMap::new(),
            staged: BTreeMap::new(),
            virtual_time: 0,
            answered: Vec::new(),
            retired_keys: Vec::new(),
            index: 0,
            made: [0; 4],
        }
    }

    pub fn apply(&mut self, stamp: Stamp, commands: &[Command]) -> Vec<Reply> {
        self.index = stamp.index;
        self.made = [0; 4];
        self.now_ms = self.now_ms.max(stamp.now_ms);
        commands
            .iter()
            .map(|command| {
                let reply = self.apply_one(command).unwrap_or_else(Reply::Refused);
                self.drop_idle_queues();
                reply
            })
            .collect()
    }

    pub fn task_ids(&self) -> Vec<TaskId> {
        self.tasks.keys().copied().collect()
    }

    fn apply_one(&mut self, command: &Command) -> ApplyResult {
        let request = match command {
            Command::SubmitJob(submit) => submit.request_id.clone(),
            Command::RegisterWorker(register) => register.request_id.clone(),
            Command::RetryTask { request_id, .. } => request_id.clone(),
            _ => None,
        };
        if let Some(before) = self
            .answered
            .iter()
            .find(|answered| Some(&answered.request) == request.as_ref())
        {
            return repeated(before, command);
        }
        let (reply, is_new) = match command {
            Command::SubmitJob(submit) => self.submit(submit)?,
            Command::CancelJob { job } => (self.cancel_job(*job)?, false),
            Command::CancelTask { task } => (self.cancel_task(*task)?, false),
            Command::RetryTask { task, .. } => (self.retry(*task)?, true),
            Command::RegisterWorker(register) => (self.register(register)?, true),
            Command::LeaveWorker { worker } => (self.leave(*worker)?, false),
            Command::DrainWorker { worker } => (self.drain(*worker)?, false),
            Command::LoseWorkers { workers } => (self.lose(workers), false),
            Command::Grant { grants } => (self.grant(grants), false),
            Command::GrantNext { demands } => (self.grant_next(demands), false),
            Command::EndLeases { leases } => {
                let mut tasks = 0;
                for ended in leases {
                    if self
                        .tasks
                        .get(&ended.task)
                        .and_then(|task| task.holder)
                        .is_some_and(|held| held.1 == ended.token)
                    {
                        let word = match ended.reason {
                            EndReason::Expired => "lease_expired",
                            EndReason::Returned => "returned",
                            EndReason::TimedOut => "timed_out",
                        };
                        self.end(ended.task, word, None, Retry::AfterBackoff);
                        tasks += 1;
                    }
                }
                (Reply::Done { tasks }, false)
            }
            Command::Report { worker, results } => {
                let decisions = results
                    .iter()
                    .map(|result| self.report(*worker, result))
                    .collect();
                (Reply::Reported { decisions }, false)
            }
            Command::AdvanceTime => (self.advance(), false),
            Command::ChangeQueue { queue, change } => (self.change_queue(queue, change)?, false),
            Command::PauseWorker { worker } => (self.pause(*worker)?, false),
            Command::ResumeWorker { worker } => (self.resume(*worker)?, false),
            Command::CancelTasks {
                tasks,
                include_running,
            } => {
                let skip = |model: &Self, task: &TaskId| {
                    let task = model.tasks.get(task);
                    !include_running && task.is_some_and(|task| task.holder.is_some())
                };
                let mut each = |task: &TaskId| !skip(self, task) && done(self.cancel_task(*task));
                let tasks = tasks.iter().filter(|task| each(task)).count() as u64;
                (Reply::Done { tasks }, false)
            }
            Command::RetryTasks { tasks } => {
                let each = |task: &&TaskId| done(self.retry(**task));
                let tasks = tasks.iter().filter(each).count() as u64;
                (Reply::Done { tasks }, false)
            }
            Command::ForgetJobs { jobs } => (self.forget_jobs(jobs), false),
            Command::RestorePart(_) | Command::RestorePartOfLevel2(_) => {
                unreachable!("backups are restored beside this history")
            }
            Command::PutSchedule(put) => (self.put_schedule(put)?, false),
            Command::DeleteSchedule { name } => (self.delete_schedule(name)?, false),
            Command::PauseSchedule { name } => (self.pause_schedule(name)?, false),
            Command::ResumeSchedule {
                name,
                generation,
                next_tick_ms,
            } => (
                self.resume_schedule(name, *generation, *next_tick_ms)?,
                false,
            ),
            Command::TriggerSchedule { name, request_id } => {
                let submit = self.triggered(name, request_id)?;
                (self.apply_one(&Command::SubmitJob(submit))?, false)
            }
            Command::TickSchedule(tick) => (self.tick(tick), false),
            Command::StagePart(stage) => (self.stage(stage)?, false),
            Command::SetTimeBack(set_back) => (self.set_time_back(set_back)?, false),
        };
        if let Some(request) = request.filter(|_| is_new) {
            let answered = AnsweredRequest {
                request,
                asked: command.clone(),
                reply: reply.clone(),
                at_ms: self.now_ms,
            };
            self.answered.push(answered);
            if self.answered.len() as u64 > self.limits.requests_max {
                self.answered.remove(0);
            }
        }
        Ok(reply)
    }
}

/// Returns the answer to a remembered request id.
fn repeated(before: &AnsweredRequest, command: &Command) -> ApplyResult {
    let same = match (&before.asked, command) {
        (Command::SubmitJob(first), Command::SubmitJob(second)) => {
            if first.body_digest != second.body_digest
                && let Reply::Submitted { job, .. } = before.reply
            {
                return Err(Refusal::KeyConflict { job });
            }
            true
        }
        (Command::RegisterWorker(first), Command::RegisterWorker(second)) => {
            first.name == second.name
        }
        (Command::RetryTask { task: first, .. }, Command::RetryTask { task: second, .. }) => {
            first == second
        }
        _ => false,
    };
    if same {
        Ok(before.reply.clone())
    } else {
        Err(invalid("request_id"))
    }
}

/// Returns whether the command changed one task.
fn done(result: ApplyResult) -> bool {
    matches!(result, Ok(Reply::Done { tasks: 1 }))
}

/// Returns a refusal. The model predicts only its field, not the wording.
fn invalid(field: impl Into<String>) -> Refusal {
    Refusal::Invalid {
        field: field.into(),
        problem: String::new(),
    }
}

/// Returns the bytes of payload, result, error and the errors of remembered attempts.
fn bytes_of(task: &ModelTask) -> u64 {
    let error = task.error.as_ref().map_or(0, |error| error.len());
    let history: usize = task
        .history
        .iter()
        .filter_map(|ended| ended.3.as_ref())
        .map(|error| error.len())
        .sum();
    (task.new.payload.len()
        + task.result.as_ref().map_or(0, |result| result.len())
        + error
        + history) as u64
}

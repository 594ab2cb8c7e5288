//! The table's rules in their plainest form: lists that are searched, and times that are looked up every time. Written
//! from the documentation of the commands, not from the table's code; shares nothing with it but the words.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use triarch_table::command::{
    EndReason, Grant, Lease, NewTask, OnFailure, Outcome, Refusal, RegisterWorker, SubmitJob,
    TaskReport, Verdict,
};
use triarch_table::model::{JobState, TaskState, WorkerState};
use triarch_table::task::Life;
use triarch_table::{Command, JobId, Limits, Reply, Stamp, Table, TaskId, Token, WorkerId};

#[derive(Debug)]
struct ModelTask {
    id: TaskId,
    job: JobId,
    new: NewTask,
    state: TaskState,
    until_ms: u64,
    place: u64,
    holder: Option<(WorkerId, Token)>,
    attempt: u32,
    failures: u32,
    losses: u32,
    expires_ms: Option<u64>,
    result: Option<Bytes>,
    error: Option<Bytes>,
    /// Token, worker, word, reported error.
    history: Vec<(Token, WorkerId, &'static str, Option<Bytes>)>,
}

#[derive(Debug)]
struct ModelJob {
    id: JobId,
    on_failure: OnFailure,
    key: Option<(String, [u8; 32])>,
    tasks: Vec<TaskId>,
    finished_ms: Option<u64>,
}

#[derive(Debug)]
struct ModelWorker {
    id: WorkerId,
    is: RegisterWorker,
    state: WorkerState,
    gone_ms: u64,
}

struct OldKey {
    key: String,
    digest: [u8; 32],
    job: JobId,
    tasks: Vec<TaskId>,
    at_ms: u64,
}

struct Answered {
    request: String,
    asked: Command,
    reply: Reply,
    at_ms: u64,
}

pub struct Model {
    limits: Limits,
    now_ms: u64,
    places: u64,
    tasks: BTreeMap<TaskId, ModelTask>,
    jobs: BTreeMap<JobId, ModelJob>,
    workers: BTreeMap<WorkerId, ModelWorker>,
    answered: Vec<Answered>,
    old_keys: Vec<OldKey>,
    // Of the present entry.
    index: u64,
    made: [u64; 4],
}

type Ruling = Result<Reply, Refusal>;

impl Model {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now_ms: 0,
            places: 0,
            tasks: BTreeMap::new(),
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            answered: Vec::new(),
            old_keys: Vec::new(),
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
            .map(|command| self.apply_one(command).unwrap_or_else(Reply::Refused))
            .collect()
    }

    fn apply_one(&mut self, command: &Command) -> Ruling {
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
                        self.end(ended.task, word, None, true);
                        tasks += 1;
                    }
                }
                (Reply::Done { tasks }, false)
            }
            Command::Report { worker, results } => {
                let verdicts = results
                    .iter()
                    .map(|result| self.report(*worker, result))
                    .collect();
                (Reply::Reported { verdicts }, false)
            }
            Command::AdvanceTime => (self.advance(), false),
        };
        if let Some(request) = request.filter(|_| is_new) {
            let answered = Answered {
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

    fn submit(&mut self, submit: &SubmitJob) -> Result<(Reply, bool), Refusal> {
        if let Some(key) = &submit.idempotency_key {
            let of_jobs = self
                .jobs
                .values()
                .filter_map(|job| Some((job.key.as_ref()?, job.id, &job.tasks)));
            let known = of_jobs.map(|((key, digest), job, tasks)| (key, digest, job, tasks));
            let old = self
                .old_keys
                .iter()
                .map(|old| (&old.key, &old.digest, old.job, &old.tasks));
            if let Some((_, digest, job, tasks)) =
                known.chain(old).find(|(known, ..)| *known == key)
            {
                if *digest != submit.body_digest {
                    return Err(Refusal::KeyConflict { job });
                }
                return Ok((
                    Reply::Submitted {
                        job,
                        tasks: tasks.clone(),
                        duplicate: true,
                    },
                    false,
                ));
            }
        }
        self.check_shape(submit)?;
        let bound = self.limits.tasks_max;
        if (self.tasks.len() + submit.tasks.len()) as u64 > bound {
            return Err(Refusal::TableFull {
                what: "tasks".into(),
                bound,
            });
        }
        let bytes: usize = submit.tasks.iter().map(|task| task.payload.len()).sum();
        if self.tasks.values().map(bytes_of).sum::<u64>() + bytes as u64 > self.limits.bytes_max {
            let bound = self.limits.bytes_max;
            return Err(Refusal::TableFull {
                what: "bytes of payloads and results".into(),
                bound,
            });
        }
        let queues: BTreeSet<&String> = submit.tasks.iter().map(|task| &task.queue).collect();
        for queue in queues {
            let new: Vec<&NewTask> = submit
                .tasks
                .iter()
                .filter(|task| task.queue == *queue)
                .collect();
            self.check_queue(queue, &new)?;
        }
        let job = JobId::at(self.index, self.made[0]);
        self.made[0] += 1;
        let mut tasks = Vec::new();
        for new in &submit.tasks {
            let id = TaskId::at(self.index, self.made[1]);
            self.made[1] += 1;
            tasks.push(id);
            let until_ms = new
                .not_before_ms
                .unwrap_or(0)
                .max(self.now_ms + new.delay_ms);
            let ready = until_ms <= self.now_ms;
            self.places += u64::from(ready);
            let task = ModelTask {
                id,
                job,
                new: new.clone(),
                state: if ready {
                    TaskState::Queued
                } else {
                    TaskState::Delayed
                },
                until_ms,
                place: self.places,
                holder: None,
                attempt: 0,
                failures: 0,
                losses: 0,
                expires_ms: new.expires_ms.map(|expires_ms| self.now_ms + expires_ms),
                result: None,
                error: None,
                history: Vec::new(),
            };
            self.tasks.insert(id, task);
        }
        let key = submit
            .idempotency_key
            .clone()
            .map(|key| (key, submit.body_digest));
        let on_failure = submit.on_failure;
        self.jobs.insert(
            job,
            ModelJob {
                id: job,
                on_failure,
                key,
                tasks: tasks.clone(),
                finished_ms: None,
            },
        );
        Ok((
            Reply::Submitted {
                job,
                tasks,
                duplicate: false,
            },
            true,
        ))
    }

    /// Only the field is modelled, not the words.
    fn check_shape(&self, submit: &SubmitJob) -> Result<(), Refusal> {
        let invalid = |field: String| {
            Err(Refusal::Invalid {
                field,
                problem: String::new(),
            })
        };
        if submit.tasks.is_empty() || submit.tasks.len() > self.limits.tasks_per_job_max as usize {
            return invalid("tasks".into());
        }
        for (at, task) in submit.tasks.iter().enumerate() {
            let wrong = [
                ("kind", task.kind.is_empty()),
                ("queue", task.queue.len() > 200),
                ("priority", task.priority > 9),
                ("max_attempts", task.max_attempts == 0),
                ("max_losses", task.max_losses == 0),
                ("backoff.factor", task.backoff.factor_milli < 1_000),
                ("backoff.jitter", task.backoff.jitter_permille > 1_000),
                (
                    "key",
                    task.key.is_some()
                        && submit.tasks[..at].iter().any(|other| other.key == task.key),
                ),
            ];
            if let Some((field, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
                return invalid(format!("tasks[{at}].{field}"));
            }
        }
        Ok(())
    }

    fn check_queue(&self, queue: &str, new: &[&NewTask]) -> Result<(), Refusal> {
        let unfinished: Vec<&ModelTask> = self
            .tasks
            .values()
            .filter(|task| task.new.queue == queue && !task.state.is_terminal())
            .collect();
        let depth = unfinished
            .iter()
            .filter(|task| task.state != TaskState::Running)
            .count() as u64;
        let max_depth = self.limits.queue_depth_max;
        if depth + new.len() as u64 > max_depth {
            return Err(Refusal::QueueFull {
                queue: queue.into(),
                depth,
                max_depth,
            });
        }
        let before: BTreeSet<_> = unfinished
            .iter()
            .map(|task| (&task.new.kind, &task.new.requires))
            .collect();
        let mut after = before.clone();
        after.extend(new.iter().map(|task| (&task.kind, &task.requires)));
        let bound = u64::from(self.limits.classes_per_queue_max);
        if after.len() > before.len() && after.len() as u64 > bound {
            let what = format!("different combinations of kind and requirements in queue {queue}");
            return Err(Refusal::TableFull { what, bound });
        }
        Ok(())
    }

    fn cancel_task(&mut self, id: TaskId) -> Ruling {
        let task = self.tasks.get(&id).ok_or(Refusal::TaskNotFound(id))?;
        match task.state {
            TaskState::Cancelled => Ok(Reply::Done { tasks: 0 }),
            state if state.is_terminal() => Err(Refusal::WrongState {
                task: id,
                state: state.as_str().into(),
            }),
            _ => {
                self.cancel(id);
                Ok(Reply::Done { tasks: 1 })
            }
        }
    }

    fn cancel_job(&mut self, id: JobId) -> Ruling {
        let job = self.jobs.get(&id).ok_or(Refusal::JobNotFound(id))?;
        match self.state_of(job) {
            JobState::Cancelled => Ok(Reply::Done { tasks: 0 }),
            JobState::Running => Ok(Reply::Done {
                tasks: self.cancel_rest(id),
            }),
            state => Err(Refusal::JobFinished {
                job: id,
                state: state.as_str().into(),
            }),
        }
    }

    fn cancel(&mut self, id: TaskId) {
        if self.tasks[&id].state == TaskState::Running {
            self.end(id, "cancelled", None, true);
        } else {
            self.put(id, TaskState::Cancelled);
        }
    }

    fn cancel_rest(&mut self, job: JobId) -> u64 {
        let unfinished = |id: &&TaskId| !self.tasks[*id].state.is_terminal();
        let tasks: Vec<TaskId> = self.jobs[&job]
            .tasks
            .iter()
            .filter(unfinished)
            .copied()
            .collect();
        tasks.iter().for_each(|&task| self.cancel(task));
        tasks.len() as u64
    }

    fn retry(&mut self, id: TaskId) -> Ruling {
        let task = self.tasks.get(&id).ok_or(Refusal::TaskNotFound(id))?;
        if !task.state.is_terminal() {
            return Err(Refusal::WrongState {
                task: id,
                state: task.state.as_str().into(),
            });
        }
        self.check_queue(&task.new.queue, &[&task.new])?;
        let task = self.tasks.get_mut(&id).expect("found");
        (
            task.failures,
            task.losses,
            task.expires_ms,
            task.result,
            task.error,
        ) = (0, 0, None, None, None);
        self.queue(id);
        Ok(Reply::Done { tasks: 1 })
    }

    fn register(&mut self, register: &RegisterWorker) -> Ruling {
        let wrong = [
            ("name", register.name.len() > 200),
            ("kinds", register.kinds.is_empty()),
            ("slots", register.slots == 0),
        ];
        if let Some((field, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
            return Err(Refusal::Invalid {
                field: field.to_string(),
                problem: String::new(),
            });
        }
        let present = self.workers.values().filter(|worker| worker.is_present());
        if let Some(worker) = present
            .clone()
            .find(|worker| worker.is.name == register.name)
        {
            return Err(Refusal::WorkerNameTaken { worker: worker.id });
        }
        let bound = u64::from(self.limits.workers_max);
        if present.count() as u64 >= bound {
            return Err(Refusal::TableFull {
                what: "workers".into(),
                bound,
            });
        }
        let id = WorkerId::at(self.index, self.made[2]);
        self.made[2] += 1;
        let worker = ModelWorker {
            id,
            is: register.clone(),
            state: WorkerState::Live,
            gone_ms: 0,
        };
        self.workers.insert(id, worker);
        Ok(Reply::Registered { worker: id })
    }

    fn drain(&mut self, id: WorkerId) -> Ruling {
        let worker = self
            .workers
            .get_mut(&id)
            .filter(|worker| worker.is_present());
        worker.ok_or(Refusal::UnknownWorker(id))?.state = WorkerState::Draining;
        Ok(Reply::Done { tasks: 0 })
    }

    fn leave(&mut self, id: WorkerId) -> Ruling {
        match self.workers.get(&id).map(|worker| worker.state) {
            Some(WorkerState::Left) => Ok(Reply::Done { tasks: 0 }),
            Some(WorkerState::Live | WorkerState::Draining) => Ok(Reply::Done {
                tasks: self.end_worker(id, WorkerState::Left, "returned"),
            }),
            Some(WorkerState::Lost) | None => Err(Refusal::UnknownWorker(id)),
        }
    }

    fn lose(&mut self, ids: &[WorkerId]) -> Reply {
        let mut tasks = 0;
        for &id in ids {
            if self
                .workers
                .get(&id)
                .is_some_and(|worker| worker.is_present())
            {
                tasks += self.end_worker(id, WorkerState::Lost, "lost");
            }
        }
        Reply::Done { tasks }
    }

    fn end_worker(&mut self, id: WorkerId, state: WorkerState, word: &'static str) -> u64 {
        let mut ended = 0;
        while let Some(task) = self.held_by(id).first().copied() {
            self.end(task, word, None, true);
            ended += 1;
        }
        let worker = self.workers.get_mut(&id).expect("found");
        (worker.state, worker.gone_ms) = (state, self.now_ms);
        if self.gone().len() as u64 > self.limits.gone_workers_max {
            self.workers.remove(&self.gone()[0].1);
        }
        ended
    }

    fn grant(&mut self, grants: &[Grant]) -> Reply {
        let mut leases = Vec::new();
        for grant in grants {
            if self.may_run(grant) {
                let token = Token::at(self.index, self.made[3]).expect("few grants");
                self.made[3] += 1;
                let task = self.tasks.get_mut(&grant.task).expect("may run");
                task.attempt += 1;
                task.state = TaskState::Running;
                task.holder = Some((grant.worker, token));
                leases.push(Lease {
                    task: task.id,
                    worker: grant.worker,
                    token,
                    attempt: task.attempt,
                });
            }
        }
        Reply::Granted { leases }
    }

    fn may_run(&self, grant: &Grant) -> bool {
        let (Some(task), Some(worker)) =
            (self.tasks.get(&grant.task), self.workers.get(&grant.worker))
        else {
            return false;
        };
        let held = self.held_by(worker.id);
        let used = |name: &String| -> u64 {
            held.iter()
                .filter_map(|task| self.tasks[task].new.requires.resources.get(name))
                .sum()
        };
        let requires = &task.new.requires;
        task.state == TaskState::Queued
            && worker.state == WorkerState::Live
            && (held.len() as u64) < u64::from(worker.is.slots)
            && worker.is.queues.contains(&task.new.queue)
            && worker.is.kinds.contains(&task.new.kind)
            && requires
                .labels
                .iter()
                .all(|(name, value)| worker.is.labels.get(name) == Some(value))
            && requires.resources.iter().all(|(name, amount)| {
                used(name) + amount <= worker.is.resources.get(name).copied().unwrap_or(0)
            })
    }

    fn report(&mut self, worker: WorkerId, report: &TaskReport) -> Verdict {
        let Some(task) = self.tasks.get_mut(&report.task) else {
            return Verdict::NotFound;
        };
        let (word, error) = match &report.outcome {
            Outcome::Succeeded { .. } => ("succeeded", None),
            Outcome::Failed { error, .. } => ("failed", Some(error.clone())),
            Outcome::Returned => ("returned", None),
        };
        if task.holder == Some((worker, report.token)) {
            if let Outcome::Succeeded { result } = &report.outcome {
                task.result = Some(result.clone());
            }
            self.end(
                report.task,
                word,
                error,
                !matches!(
                    report.outcome,
                    Outcome::Failed {
                        retryable: false,
                        ..
                    }
                ),
            );
            return Verdict::Accepted;
        }
        let same = |ended: &&(Token, WorkerId, &str, Option<Bytes>)| {
            ended.0 == report.token && ended.1 == worker
        };
        match task.history.iter().find(same) {
            Some(ended) if ended.2 == word => Verdict::Accepted,
            Some(ended)
                if ["succeeded", "failed", "cancelled"].contains(&ended.2)
                    && task.state.is_terminal() =>
            {
                Verdict::AlreadyFinished
            }
            Some(_) | None => Verdict::StaleToken,
        }
    }

    fn advance(&mut self) -> Reply {
        let steps_max = u64::from(self.limits.advance_steps_max);
        let mut steps = 0;
        while steps < steps_max {
            let due = self.tasks.values().flat_map(|task| {
                let waits = [TaskState::Delayed, TaskState::Queued].contains(&task.state);
                let expiry = task
                    .expires_ms
                    .filter(|_| waits)
                    .map(|at_ms| (at_ms, 0, task.id));
                let ready =
                    (task.state == TaskState::Delayed).then_some((task.until_ms, 1, task.id));
                expiry.into_iter().chain(ready)
            });
            let Some((_, what, task)) = due.filter(|due| due.0 <= self.now_ms).min() else {
                break;
            };
            let unfinished = |model: &Self| {
                model
                    .tasks
                    .values()
                    .filter(|task| !task.state.is_terminal())
                    .count() as u64
            };
            let before = unfinished(self);
            if what == 0 {
                self.put(task, TaskState::Expired);
                steps += before - unfinished(self);
            } else {
                self.queue(task);
                steps += 1;
            }
        }
        self.forget(steps_max.saturating_sub(steps));
        Reply::Done { tasks: steps }
    }

    fn forget(&mut self, steps_max: u64) {
        let mut steps = 0;
        let old = |at_ms: u64, age_ms: u64, now_ms: u64| at_ms + age_ms <= now_ms;
        while steps < steps_max {
            let mut finished: Vec<&ModelJob> = self
                .jobs
                .values()
                .filter(|job| job.finished_ms.is_some())
                .collect();
            finished.sort_by_key(|job| (job.finished_ms, job.id));
            let tasks: Vec<&ModelTask> = finished
                .iter()
                .flat_map(|job| &job.tasks)
                .map(|id| &self.tasks[id])
                .collect();
            let too_many = finished.len() as u64 > self.limits.finished_jobs_max
                || tasks.len() as u64 > self.limits.finished_tasks_max
                || tasks.iter().map(|task| bytes_of(task)).sum::<u64>()
                    > self.limits.finished_bytes_max;
            let Some(job) = finished.first() else { break };
            if !too_many
                && !old(
                    job.finished_ms.unwrap_or(0),
                    self.limits.finished_age_ms,
                    self.now_ms,
                )
            {
                break;
            }
            let job = self.jobs.remove(&job.id.clone()).expect("found");
            job.tasks
                .iter()
                .for_each(|task| drop(self.tasks.remove(task)));
            steps += job.tasks.len() as u64;
            if let Some((key, digest)) = job.key {
                self.old_keys.push(OldKey {
                    key,
                    digest,
                    job: job.id,
                    tasks: job.tasks,
                    at_ms: self.now_ms,
                });
                if self.old_keys.len() as u64 > self.limits.keys_max {
                    self.old_keys.remove(0);
                }
            }
        }
        let (now_ms, limits) = (self.now_ms, self.limits.clone());
        while let Some(&(gone_ms, id)) = self.gone().first().filter(|_| steps < steps_max) {
            if !old(gone_ms, limits.gone_workers_age_ms, now_ms) {
                break;
            }
            steps += 1;
            self.workers.remove(&id);
        }
        while steps < steps_max
            && self
                .answered
                .first()
                .is_some_and(|a| old(a.at_ms, limits.requests_age_ms, now_ms))
        {
            steps += 1;
            self.answered.remove(0);
        }
        while steps < steps_max
            && self
                .old_keys
                .first()
                .is_some_and(|k| old(k.at_ms, limits.keys_age_ms, now_ms))
        {
            steps += 1;
            self.old_keys.remove(0);
        }
    }

    /// Ends an attempt by the word for how.
    fn end(&mut self, id: TaskId, word: &'static str, error: Option<Bytes>, retryable: bool) {
        let now_ms = self.now_ms;
        let task = self.tasks.get_mut(&id).expect("it runs");
        let (worker, token) = task.holder.take().expect("it runs");
        task.history.push((token, worker, word, error.clone()));
        if task.history.len() > self.limits.attempts_kept_max as usize {
            task.history.remove(0);
        }
        if word != "returned" {
            task.expires_ms = None;
        }
        match word {
            "succeeded" => self.put(id, TaskState::Succeeded),
            "cancelled" => self.put(id, TaskState::Cancelled),
            "returned" => task.state = TaskState::Queued,
            "lost" | "lease_expired" => {
                task.losses += 1;
                if task.losses >= task.new.max_losses {
                    task.error = Some(lost_text(task.losses));
                    self.put(id, TaskState::Failed);
                } else {
                    task.state = TaskState::Queued;
                }
            }
            "failed" | "timed_out" => {
                task.failures += 1;
                if !retryable || task.failures >= task.new.max_attempts {
                    task.error = Some(error.unwrap_or_else(|| timeout_text(task.new.timeout_ms)));
                    self.put(id, TaskState::Failed);
                    return;
                }
                let backoff = &task.new.backoff;
                let mut wait_ms = backoff.initial_ms.min(backoff.max_ms);
                for _ in 1..task.failures {
                    wait_ms =
                        (wait_ms * u64::from(backoff.factor_milli) / 1_000).min(backoff.max_ms);
                }
                if wait_ms == 0 {
                    self.queue(id);
                } else {
                    task.state = TaskState::Delayed;
                    task.until_ms = now_ms + wait_ms;
                }
            }
            _ => panic!("{word}"),
        }
    }

    /// Gives a task a new place.
    fn queue(&mut self, id: TaskId) {
        self.places += 1;
        let task = self.tasks.get_mut(&id).expect("found");
        (task.state, task.place) = (TaskState::Queued, self.places);
        self.jobs.get_mut(&task.job).expect("its job").finished_ms = None;
    }

    /// Makes a task terminal, with what that means for its job.
    fn put(&mut self, id: TaskId, state: TaskState) {
        let task = self.tasks.get_mut(&id).expect("found");
        task.state = state;
        let job = task.job;
        let all = self.jobs[&job]
            .tasks
            .iter()
            .all(|task| self.tasks[task].state.is_terminal());
        if all {
            self.jobs.get_mut(&job).expect("its job").finished_ms = Some(self.now_ms);
        } else if [TaskState::Failed, TaskState::Expired].contains(&state)
            && self.jobs[&job].on_failure == OnFailure::FailFast
        {
            self.cancel_rest(job);
        }
    }

    fn held_by(&self, worker: WorkerId) -> Vec<TaskId> {
        let held = self
            .tasks
            .values()
            .filter(|task| task.holder.is_some_and(|holder| holder.0 == worker));
        held.map(|task| task.id).collect()
    }

    fn gone(&self) -> Vec<(u64, WorkerId)> {
        let gone = self.workers.values().filter(|worker| !worker.is_present());
        let mut gone: Vec<_> = gone.map(|worker| (worker.gone_ms, worker.id)).collect();
        gone.sort();
        gone
    }

    fn state_of(&self, job: &ModelJob) -> JobState {
        let any = |state| job.tasks.iter().any(|task| self.tasks[task].state == state);
        if job
            .tasks
            .iter()
            .any(|task| !self.tasks[task].state.is_terminal())
        {
            JobState::Running
        } else if any(TaskState::Failed) || any(TaskState::Expired) {
            JobState::Failed
        } else if any(TaskState::Cancelled) {
            JobState::Cancelled
        } else {
            JobState::Succeeded
        }
    }

    /// Compares everything that a reader of the table can see.
    pub fn agrees_with(&self, table: &Table) {
        for task in self.tasks.values() {
            let real = table
                .task(task.id)
                .unwrap_or_else(|| panic!("{} is missing", task.id));
            let problem = || format!("\n table: {real:?}\n model: {task:?}");
            let counts = (
                real.state(),
                real.attempt,
                real.failures,
                real.losses,
                real.expires_at_ms,
            );
            assert_eq!(
                counts,
                (
                    task.state,
                    task.attempt,
                    task.failures,
                    task.losses,
                    task.expires_ms
                ),
                "{}",
                problem()
            );
            let held = real.lease().map(|lease| (lease.worker, lease.token));
            assert_eq!(held, task.holder, "{}", problem());
            let stands = match real.life {
                Life::Delayed { until_ms } => until_ms == task.until_ms,
                Life::Queued { place } | Life::Running { place, .. } => place.order == task.place,
                _ => real.state().is_terminal() && real.finished_ms().is_some(),
            };
            assert!(stands, "{}", problem());
            assert_eq!(real.result(), task.result.as_ref(), "{}", problem());
            assert_eq!(real.error(), task.error.as_ref(), "{}", problem());
            let history = real.history.iter().map(|attempt| {
                (
                    attempt.token,
                    attempt.worker,
                    attempt.end.as_str(),
                    attempt.end.error().cloned(),
                )
            });
            assert_eq!(history.collect::<Vec<_>>(), task.history, "{}", problem());
        }
        for job in self.jobs.values() {
            let real = table
                .job(job.id)
                .unwrap_or_else(|| panic!("{} is missing", job.id));
            assert_eq!(
                (real.state(), real.finished_ms),
                (self.state_of(job), job.finished_ms),
                "{job:?}"
            );
        }
        let workers: Vec<_> = table
            .workers()
            .map(|worker| (worker.id, worker.state()))
            .collect();
        assert_eq!(
            workers,
            self.workers
                .values()
                .map(|worker| (worker.id, worker.state))
                .collect::<Vec<_>>()
        );
    }
}

impl ModelWorker {
    fn is_present(&self) -> bool {
        [WorkerState::Live, WorkerState::Draining].contains(&self.state)
    }
}

/// The answer to a request id that is remembered.
fn repeated(before: &Answered, command: &Command) -> Ruling {
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
        Err(Refusal::Invalid {
            field: "request_id".into(),
            problem: String::new(),
        })
    }
}

/// Payload, result, error and the errors of the attempts that are remembered.
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

fn timeout_text(timeout_ms: Option<u64>) -> Bytes {
    let limit = timeout_ms.map_or(String::new(), |timeout_ms| format!(" of {timeout_ms} ms"));
    let text = r#"{"type":"timeout","message":"the attempt outlived its time limit* and its worker did not report"}"#;
    Bytes::from(text.replace('*', &limit))
}

fn lost_text(losses: u32) -> Bytes {
    let text = r#"{"type":"worker_lost","message":"* attempts were lost with their workers: the task may be what kills them"}"#;
    Bytes::from(text.replace('*', &losses.to_string()))
}

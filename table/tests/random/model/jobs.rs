//! Model of submissions and cancellations.

use triarch_table::command::reply::Refusal;
use triarch_table::command::{DependencyCondition, NewTask, SubmitJob};
use triarch_table::records::task::CancelCause;
use triarch_table::types::state::{JobState, TaskState};
use triarch_table::{JobId, Reply, TaskId};

use super::dependencies::Effect;
use super::dependency_graph::Resolution;
use super::{ApplyResult, Body, Model, ModelJob, ModelTask, bytes_of, invalid};

impl Model {
    pub(super) fn submit(&mut self, submit: &SubmitJob) -> Result<(Reply, bool), Refusal> {
        let key = submit.idempotency_key.as_ref();
        if let Some((body, job, tasks)) = key.and_then(|key| self.known_by(key)) {
            if body.0 != submit.body_digest {
                return Err(Refusal::KeyConflict { job });
            }
            let reply = Reply::Submitted {
                job,
                tasks,
                duplicate: true,
            };
            return Ok((reply, false));
        }
        self.validate_tasks(&submit.tasks)?;
        let mut after_jobs = Vec::new();
        for after in &submit.after_jobs {
            let met = self.job_meets(after.job, after.when);
            let met = met.ok_or(Refusal::JobNotFound(after.job))?;
            after_jobs.push((after.job, after.when, met));
        }
        let graph = self.dependency_graph(&submit.tasks)?;
        let all: Vec<TaskId> = graph
            .iter()
            .map(|(resolution, _)| match resolution {
                Resolution::New(task) | Resolution::Deduplicated(task) => *task,
            })
            .collect();
        let new: Vec<(&NewTask, TaskId, Vec<_>)> = submit
            .tasks
            .iter()
            .zip(graph)
            .filter_map(|(task, (resolution, after))| match resolution {
                Resolution::New(id) => Some((task, id, after)),
                Resolution::Deduplicated(_) => None,
            })
            .collect();
        if new.is_empty() {
            return Ok((self.all_deduplicated(submit, all), true));
        }
        self.check_bounds(&new.iter().map(|(task, ..)| *task).collect::<Vec<_>>())?;
        let body = (submit.body_digest, submit.part_digests.clone());
        let job = JobId::at(self.index, self.made[0]);
        self.made[0] += 1;
        self.made[1] += new.len() as u64;
        self.jobs.insert(
            job,
            ModelJob {
                id: job,
                on_failure: submit.on_failure,
                queue: new[0].0.queue.clone(),
                key: submit.idempotency_key.clone().map(|key| (key, body)),
                tasks: new.iter().map(|(_, id, _)| *id).collect(),
                answer: all.clone(),
                finished_ms: None,
                after_jobs: after_jobs.clone(),
            },
        );
        for (task, id, after) in new {
            self.make(task, id, job, after);
        }
        if let Some(&(first, ..)) = after_jobs.iter().find(|after| after.2 == Some(false)) {
            self.cancel_rest(job, CancelCause::JobDependency(first));
        }
        let reply = Reply::Submitted {
            job,
            tasks: all,
            duplicate: false,
        };
        Ok((reply, true))
    }

    fn make(
        &mut self,
        new: &NewTask,
        id: TaskId,
        job: JobId,
        after: Vec<(TaskId, DependencyCondition)>,
    ) {
        self.queues.entry(new.queue.clone()).or_default();
        let waits = !after.is_empty() || self.waits_for_jobs(job);
        let ready = (new.not_before_ms.unwrap_or(0), new.delay_ms);
        let task = ModelTask {
            id,
            job,
            new: new.clone(),
            on: after.len(),
            after,
            state: TaskState::Waiting,
            ready,
            until_ms: 0,
            position: 0,
            since_ms: 0,
            holder: None,
            attempt: 0,
            failures: 0,
            losses: 0,
            expires_ms: new.expires_ms.map(|expires_ms| self.now_ms + expires_ms),
            cause: None,
            result: None,
            error: None,
            history: Vec::new(),
        };
        self.tasks.insert(id, task);
        if !waits {
            self.wait_until(id, ready.0.max(self.now_ms + ready.1));
        }
    }

    /// Every task was deduplicated: only the key is remembered.
    fn all_deduplicated(&mut self, submit: &SubmitJob, tasks: Vec<TaskId>) -> Reply {
        let job = self.tasks[&tasks[0]].job;
        if let Some(key) = submit.idempotency_key.clone() {
            let body = (submit.body_digest, submit.part_digests.clone());
            self.keep_key(key, body, job, tasks.clone());
        }
        Reply::Submitted {
            job,
            tasks,
            duplicate: true,
        }
    }

    fn check_bounds(&self, new: &[&NewTask]) -> Result<(), Refusal> {
        let bound = self.limits.tasks_max;
        if (self.tasks.len() + new.len()) as u64 > bound {
            return Err(Refusal::TableFull {
                what: "tasks".into(),
                bound,
            });
        }
        let bytes: usize = new.iter().map(|task| task.payload.len()).sum();
        if self.tasks.values().map(bytes_of).sum::<u64>() + bytes as u64 > self.limits.bytes_max {
            let bound = self.limits.bytes_max;
            return Err(Refusal::TableFull {
                what: "bytes of payloads and results".into(),
                bound,
            });
        }
        let names: Vec<&str> = new.iter().map(|task| &*task.queue).collect();
        self.check_new_queues(&names)?;
        self.check_queues(new)
    }

    /// Returns the body submitted under an idempotency key, and the answer to the same body again.
    pub(super) fn known_by(&self, key: &str) -> Option<(Body, JobId, Vec<TaskId>)> {
        let of_jobs = self.jobs.values().filter_map(|job| {
            let (own, body) = job.key.as_ref()?;
            (own == key).then(|| (body.clone(), job.id, job.answer.clone()))
        });
        let old = self.retired_keys.iter().filter(|old| old.key == key);
        let old = old.map(|old| (old.body.clone(), old.job, old.tasks.clone()));
        of_jobs.chain(old).next()
    }

    /// Validates tasks. The model predicts only the refused field, not the wording.
    pub(super) fn validate_tasks(&self, tasks: &[NewTask]) -> Result<(), Refusal> {
        if tasks.is_empty() || tasks.len() > self.limits.tasks_per_job_max as usize {
            return Err(invalid("tasks"));
        }
        for (at, task) in tasks.iter().enumerate() {
            let wrong = [
                ("kind", task.kind.is_empty()),
                ("queue", task.queue.len() > 200),
                ("priority", task.priority > 9),
                ("max_attempts", task.max_attempts == 0),
                ("max_losses", task.max_losses == 0),
                ("backoff.factor", task.backoff.factor_milli < 1_000),
                ("backoff.jitter", task.backoff.jitter_permille > 1_000),
                ("timeout_ms", task.timeout_ms == Some(0)),
                ("after", task.after.iter().any(|first| first.key.is_empty())),
                (
                    "unique_key",
                    task.unique.as_ref().is_some_and(|it| it.key.is_empty()),
                ),
                (
                    "concurrency_limit",
                    task.concurrency.as_ref().is_some_and(|it| it.limit == 0),
                ),
                (
                    "key",
                    task.key.is_some() && tasks[..at].iter().any(|other| other.key == task.key),
                ),
            ];
            if let Some((field, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
                return Err(invalid(format!("tasks[{at}].{field}")));
            }
        }
        Ok(())
    }

    pub(super) fn cancel_task(&mut self, id: TaskId) -> ApplyResult {
        let task = self.tasks.get(&id).ok_or(Refusal::TaskNotFound(id))?;
        match task.state {
            TaskState::Cancelled => Ok(Reply::Done { tasks: 0 }),
            state if state.is_terminal() => Err(Refusal::WrongState {
                task: id,
                state: state.as_str().into(),
            }),
            _ => {
                self.cancelled(id, CancelCause::Asked);
                self.put(id, TaskState::Cancelled);
                Ok(Reply::Done { tasks: 1 })
            }
        }
    }

    pub(super) fn cancel_job(&mut self, id: JobId) -> ApplyResult {
        let job = self.jobs.get(&id).ok_or(Refusal::JobNotFound(id))?;
        let cancelled_before = self
            .tasks
            .values()
            .any(|task| task.job == id && task.state == TaskState::Cancelled);
        match self.state_of(job) {
            JobState::Running => {
                let tasks = self.cancel_rest(id, CancelCause::Asked).len() as u64;
                self.propagate(vec![Effect::JobEnded(id)]);
                Ok(Reply::Done { tasks })
            }
            _ if cancelled_before => Ok(Reply::Done { tasks: 0 }),
            state => Err(Refusal::JobFinished {
                job: id,
                state: state.as_str().into(),
            }),
        }
    }

    pub(super) fn state_of(&self, job: &ModelJob) -> JobState {
        let any = |state| job.tasks.iter().any(|task| self.tasks[task].state == state);
        if job
            .tasks
            .iter()
            .any(|task| !self.tasks[task].state.is_terminal())
        {
            JobState::Running
        } else if any(TaskState::Failed) || any(TaskState::Expired) {
            JobState::Failed
        } else if job.tasks.iter().any(|task| {
            let task = &self.tasks[task];
            task.state == TaskState::Cancelled
                && !matches!(task.cause, Some(CancelCause::NotNeeded(_)))
        }) {
            JobState::Cancelled
        } else {
            JobState::Succeeded
        }
    }
}

//! Submissions, cancellations and retries by hand.

use std::collections::BTreeSet;

use triarch_table::command::{NewTask, Refusal, SubmitJob};
use triarch_table::model::{JobState, TaskState};
use triarch_table::{JobId, Reply, TaskId};

use super::{Model, ModelJob, ModelTask, Ruling, bytes_of};

impl Model {
    pub(super) fn submit(&mut self, submit: &SubmitJob) -> Result<(Reply, bool), Refusal> {
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
    pub(super) fn check_shape(&self, submit: &SubmitJob) -> Result<(), Refusal> {
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

    pub(super) fn check_queue(&self, queue: &str, new: &[&NewTask]) -> Result<(), Refusal> {
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

    pub(super) fn cancel_task(&mut self, id: TaskId) -> Ruling {
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

    pub(super) fn cancel_job(&mut self, id: JobId) -> Ruling {
        let job = self.jobs.get(&id).ok_or(Refusal::JobNotFound(id))?;
        let cancelled_before = self
            .tasks
            .values()
            .any(|task| task.job == id && task.state == TaskState::Cancelled);
        match self.state_of(job) {
            JobState::Running => Ok(Reply::Done {
                tasks: self.cancel_rest(id),
            }),
            _ if cancelled_before => Ok(Reply::Done { tasks: 0 }),
            state => Err(Refusal::JobFinished {
                job: id,
                state: state.as_str().into(),
            }),
        }
    }

    pub(super) fn cancel(&mut self, id: TaskId) {
        if self.tasks[&id].state == TaskState::Running {
            self.end(id, "cancelled", None, true);
        } else {
            self.put(id, TaskState::Cancelled);
        }
    }

    pub(super) fn cancel_rest(&mut self, job: JobId) -> u64 {
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

    pub(super) fn retry(&mut self, id: TaskId) -> Ruling {
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
        } else if any(TaskState::Cancelled) {
            JobState::Cancelled
        } else {
            JobState::Succeeded
        }
    }
}

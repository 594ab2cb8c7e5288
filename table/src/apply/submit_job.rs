//! Job submission: creates a job with all of its tasks, or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::id_allocator::IdAllocator;
use crate::apply::dependency_graph::{Dependencies, DependencyGraph, Resolution, deduplicated};
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::validate::request_id_reused;
use crate::command::{AfterJob, NewTask, RequestId, SubmitJob};
use crate::records::dedup::RecordedReply;
use crate::records::job::{
    Counts, DeduplicatedTasks, Idempotency, Job, JobDependency, SubmissionReceipt,
};
use crate::records::task::{CancelCause, Class, Life, Policy, Task, TaskConstraints, TaskSpec};
use crate::table::Table;
use crate::types::ids::{IDS_PER_ENTRY_MAX, JobId, TaskId};

impl Table {
    pub(super) fn submit_job(
        &mut self,
        ids: &mut IdAllocator,
        submit: SubmitJob,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        if let Some(result) = self.submitted_before(&submit) {
            return result;
        }
        self.limits.check_submission(&submit)?;
        let after_jobs = self.job_dependencies(&submit.after_jobs)?;
        let DependencyGraph { resolutions, after } =
            self.dependency_graph(&submit.tasks, ids.index, ids.tasks)?;
        let deduplicated = deduplicated(&resolutions);
        let made = |position: &usize| matches!(resolutions[*position], Resolution::New(_));
        let count = (0..submit.tasks.len()).filter(made).count() as u64;
        if ids.tasks + count > IDS_PER_ENTRY_MAX {
            let what = "tasks in one log entry".to_owned();
            return Err(Refusal::TableFull {
                what,
                bound: IDS_PER_ENTRY_MAX,
            });
        }
        let idempotency = Idempotency::of(&submit);
        let first_task = TaskId::at(ids.index, ids.tasks);
        if count == 0 {
            return Ok(self.all_deduplicated(
                submit.request_id,
                submit.body_digest,
                idempotency,
                deduplicated,
            ));
        }
        let (mut tasks, mut after_of_new) = (Vec::new(), Vec::new());
        for ((task, resolution), after) in submit.tasks.into_iter().zip(&resolutions).zip(after) {
            if let Resolution::New(_) = resolution {
                tasks.push(task);
                after_of_new.push(after);
            }
        }
        self.check_table_bounds(&tasks)?;
        let classes = self.classes_of(&tasks);
        self.check_queue_count(classes.iter().map(|class| &class.queue))?;
        self.check_queue_bounds(classes.iter().map(|class| &**class))?;

        let id = JobId::at(ids.index, ids.jobs);
        ids.jobs += 1;
        ids.tasks += count;
        let mut job = Job {
            id,
            name: Arc::from(submit.name),
            queue: classes[0].queue.clone(),
            on_failure: submit.on_failure,
            created_ms: self.now_ms,
            finished_ms: None,
            first_task,
            tasks: count as u32,
            counts: Counts::default(),
            bytes: 0,
            idempotency,
            deduplicated,
            not_needed: 0,
            after_jobs,
        };
        let waits_for_jobs = job.waits_for_jobs();
        events.push(Event::JobSubmitted { job: id });
        for class in &classes {
            self.open_queue(&class.queue);
        }
        let mut last_policy = None;
        for (((task_id, task), after), class) in
            job.task_ids().zip(tasks).zip(after_of_new).zip(classes)
        {
            let owner = (id, waits_for_jobs);
            let task = self.new_task(task_id, owner, task, after, class, &mut last_policy);
            job.counts.add(task.state());
            job.bytes += task.bytes();
            events.push(Event::TaskChanged {
                task: task_id,
                job: id,
                to: task.state(),
            });
            self.index.add_task(&task);
            self.index.add_dependencies(&task);
            self.tasks.push(task);
        }
        let receipt = job.receipt();
        self.index.add_job(&job);
        self.index.add_job_dependencies(&job);
        let denied_by = job.after_jobs.iter().find(|after| after.met == Some(false));
        let denied_by = denied_by.map(|after| after.job);
        self.jobs.push(job);
        if let Some(first) = denied_by {
            self.cancel_unfinished(id, CancelCause::JobDependency(first), events);
        }
        let tasks = receipt.task_ids();
        let reply = RecordedReply::Submitted {
            body_digest: submit.body_digest,
            receipt,
            duplicate: false,
        };
        self.record_reply(submit.request_id, reply);
        Ok(Reply::Submitted {
            job: id,
            tasks,
            duplicate: false,
        })
    }

    /// Resolves the jobs that a submission comes after.
    ///
    /// # Errors
    ///
    /// Returns a refusal if one of them is not in the table, or not any more.
    fn job_dependencies(&self, after_jobs: &[AfterJob]) -> Result<Box<[JobDependency]>, Refusal> {
        let resolve = |after: &AfterJob| {
            let job = self.jobs.get(after.job);
            let job = job.ok_or(Refusal::JobNotFound(after.job))?;
            Ok(JobDependency {
                job: after.job,
                when: after.when,
                met: job.meets(after.when),
            })
        };
        after_jobs.iter().map(resolve).collect()
    }

    /// Handles a submission of which every task was deduplicated: no job is made, and only the reply is stored.
    fn all_deduplicated(
        &mut self,
        request_id: Option<RequestId>,
        body_digest: [u8; 32],
        idempotency: Option<Arc<Idempotency>>,
        deduplicated: DeduplicatedTasks,
    ) -> Reply {
        let first = deduplicated
            .as_deref()
            .and_then(|deduplicated| deduplicated.first());
        let &(_, first_task) = first.expect("a submission has tasks");
        let first = self.tasks.get(first_task);
        let receipt = SubmissionReceipt {
            job: first.expect("unfinished tasks are in the table").job,
            first_task,
            tasks: 0,
            deduplicated,
        };
        if let Some(idempotency) = idempotency {
            self.retire_key(idempotency, receipt.clone());
        }
        let (job, tasks) = (receipt.job, receipt.task_ids());
        let reply = RecordedReply::Submitted {
            body_digest,
            receipt,
            duplicate: true,
        };
        self.record_reply(request_id, reply);
        Reply::Submitted {
            job,
            tasks,
            duplicate: true,
        }
    }

    /// Returns the reply if this very request, or another one with its idempotency key, came before.
    fn submitted_before(&mut self, submit: &SubmitJob) -> Option<ApplyResult> {
        if let Some(answered) = submit
            .request_id
            .as_deref()
            .and_then(|request| self.answered_requests.get(request))
        {
            return Some(match &answered.reply {
                RecordedReply::Submitted {
                    body_digest,
                    receipt,
                    duplicate,
                } => same_body(*body_digest, submit, receipt, *duplicate),
                RecordedReply::Retried { .. } | RecordedReply::Registered { .. } => {
                    Err(request_id_reused())
                }
            });
        }
        let (idempotency, receipt) = self.receipt_of(submit.idempotency_key.as_deref()?)?;
        Some(same_body(idempotency.body_digest, submit, &receipt, true))
    }

    /// Returns the submission that an idempotency key belongs to.
    pub(super) fn receipt_of(&self, key: &str) -> Option<(&Idempotency, SubmissionReceipt)> {
        match self.index.job_keys.get(key) {
            Some(&job) => {
                let job = self.jobs.get(job)?;
                Some((job.idempotency.as_deref()?, job.receipt()))
            }
            None => {
                let old = self.retired_keys.get(key)?;
                Some((&old.idempotency, old.receipt.clone()))
            }
        }
    }

    fn check_table_bounds(&self, tasks: &[NewTask]) -> Result<(), Refusal> {
        let bound = self.limits.tasks_max;
        if (self.tasks.len() + tasks.len()) as u64 > bound {
            return Err(Refusal::TableFull {
                what: "tasks".to_owned(),
                bound,
            });
        }
        let bound = self.limits.bytes_max;
        let bytes: u64 = tasks.iter().map(|task| task.payload.len() as u64).sum();
        if self.index.bytes.saturating_add(bytes) > bound {
            return Err(Refusal::TableFull {
                what: "bytes of payloads and results".to_owned(),
                bound,
            });
        }
        Ok(())
    }

    /// Checks that queues and scheduler have room for more tasks, one for each of these classes.
    pub(super) fn check_queue_bounds<'a>(
        &self,
        classes: impl Iterator<Item = &'a Class>,
    ) -> Result<(), Refusal> {
        let mut queues: BTreeMap<&str, (u64, BTreeSet<&Class>)> = BTreeMap::new();
        for class in classes {
            let (tasks, different) = queues.entry(&class.queue).or_default();
            *tasks += 1;
            different.insert(class);
        }
        for (queue, (tasks, different)) in queues {
            self.check_depth(queue, tasks)?;
            self.check_classes(queue, different)?;
        }
        Ok(())
    }

    /// Checks that a queue has room for more tasks.
    fn check_depth(&self, queue: &str, more: u64) -> Result<(), Refusal> {
        let own = self
            .queues
            .get(queue)
            .and_then(|queue| queue.settings.max_depth);
        let max_depth = own.map_or(self.limits.queue_depth_max, |own| {
            own.min(self.limits.queue_depth_max)
        });
        let depth = self.index.depth(queue);
        if depth + more > max_depth {
            return Err(Refusal::QueueFull {
                queue: queue.to_owned(),
                depth,
                max_depth,
            });
        }
        Ok(())
    }

    /// Checks that the scheduler has room for these different classes of a queue.
    fn check_classes<'a>(
        &self,
        queue: &str,
        different: impl IntoIterator<Item = &'a Class>,
    ) -> Result<(), Refusal> {
        let present = self.index.queue(queue);
        let open = present.map_or(0, |queue| u64::from(queue.open_classes));
        let is_new = |class: &&Class| !present.is_some_and(|queue| queue.is_open(class));
        let new = different.into_iter().filter(is_new).count() as u64;
        let bound = u64::from(self.limits.classes_per_queue_max);
        if new > 0 && open + new > bound {
            let what = format!("different combinations of kind and requirements in queue {queue}");
            return Err(Refusal::TableFull { what, bound });
        }
        Ok(())
    }

    /// Returns the shared class of each task, existing or new.
    fn classes_of(&self, tasks: &[NewTask]) -> Vec<Arc<Class>> {
        let mut new: BTreeSet<Arc<Class>> = BTreeSet::new();
        let mut classes: Vec<Arc<Class>> = Vec::with_capacity(tasks.len());
        for task in tasks {
            let last = classes.last().filter(|last| {
                *last.queue == *task.queue
                    && *last.kind == *task.kind
                    && last.requires == task.requires
            });
            if let Some(last) = last.cloned() {
                classes.push(last);
                continue;
            }
            let known = self.queues.get_key_value(&*task.queue);
            let class = Class {
                queue: known.map_or_else(|| Arc::from(&*task.queue), |(name, _)| name.clone()),
                kind: Arc::from(&*task.kind),
                requires: task.requires.clone(),
            };
            let shared = known
                .and_then(|(name, _)| self.index.queue(name)?.class(&class))
                .or_else(|| new.get(&class));
            classes.push(shared.cloned().unwrap_or_else(|| {
                let class = Arc::new(class);
                new.insert(class.clone());
                class
            }));
        }
        classes
    }

    fn new_task(
        &mut self,
        id: TaskId,
        (job, job_waits): (JobId, bool),
        task: NewTask,
        dependencies: Dependencies,
        class: Arc<Class>,
        last_policy: &mut Option<Arc<Policy>>,
    ) -> Task {
        let not_before_ms = task.not_before_ms.unwrap_or(0);
        let Dependencies { after, conditions } = dependencies;
        let life = if after.is_empty() && !job_waits {
            self.ready_from(not_before_ms.max(self.now_ms.saturating_add(task.delay_ms)))
        } else {
            Life::Waiting {
                // A task without dependencies waits for the jobs that its job comes after.
                on: (after.len() as u32).max(1),
                not_before_ms,
                delay_ms: task.delay_ms,
            }
        };
        let constraints = TaskConstraints {
            after,
            unique_key: task.unique.map(|unique| Arc::from(unique.key)),
            concurrency: task.concurrency,
            conditions,
        };
        let policy = Policy {
            priority: task.priority,
            expires_ms: task.expires_ms,
            timeout_ms: task.timeout_ms,
            max_attempts: task.max_attempts,
            max_losses: task.max_losses,
            backoff: task.backoff,
            tags: task.tags,
        };
        let policy = match last_policy.as_ref().filter(|last| ***last == policy) {
            Some(last) => self.index.policies.acquire_shared(last.clone()),
            None => self.index.policies.acquire(policy),
        };
        *last_policy = Some(policy.clone());
        Task {
            id,
            job,
            created_ms: self.now_ms,
            expires_at_ms: task
                .expires_ms
                .map(|expires_ms| self.now_ms.saturating_add(expires_ms)),
            spec: Arc::new(TaskSpec {
                class,
                policy,
                key: task.key.map(String::into_boxed_str),
                payload: task.payload,
                constraints: (constraints != TaskConstraints::default())
                    .then(|| Box::new(constraints)),
            }),
            life,
            attempt: 0,
            failures: 0,
            losses: 0,
            history: Vec::new(),
        }
    }
}

/// Returns the reply to a request whose key is known.
fn same_body(
    body_digest: [u8; 32],
    submit: &SubmitJob,
    receipt: &SubmissionReceipt,
    duplicate: bool,
) -> ApplyResult {
    let job = receipt.job;
    if body_digest != submit.body_digest && !mutated!(KeyWithAnotherBodyAccepted) {
        return Err(Refusal::KeyConflict { job });
    }
    Ok(Reply::Submitted {
        job,
        tasks: receipt.task_ids(),
        duplicate,
    })
}

#[cfg(test)]
mod tests {
    use crate::apply::id_allocator::IdAllocator;
    use crate::command::reply::{Refusal, Reply};
    use crate::command::{Backoff, NewTask, OnFailure, Requires, SubmitJob};
    use crate::table::Table;
    use crate::types::ids::{IDS_PER_ENTRY_MAX, TaskId};
    use crate::types::limits::Limits;

    fn submit(tasks: usize) -> SubmitJob {
        let task = NewTask {
            key: None,
            kind: "exec".to_owned(),
            payload: bytes::Bytes::new(),
            queue: "default".to_owned(),
            priority: 0,
            not_before_ms: None,
            delay_ms: 0,
            expires_ms: None,
            timeout_ms: None,
            max_attempts: 1,
            max_losses: 1,
            backoff: Backoff::default(),
            requires: Requires::default(),
            tags: Vec::new(),
            after: Vec::new(),
            unique: None,
            concurrency: None,
        };
        SubmitJob {
            request_id: None,
            idempotency_key: None,
            body_digest: [0; 32],
            part_digests: Vec::new(),
            after_jobs: Vec::new(),
            name: String::new(),
            on_failure: OnFailure::Continue,
            tasks: vec![task; tasks],
        }
    }

    #[test]
    fn an_entry_that_has_made_all_its_ids_refuses() {
        let mut table = Table::new(Limits::default());
        table.last_index = 5;
        let tasks = IDS_PER_ENTRY_MAX - 2;
        let mut ids = IdAllocator {
            index: 5,
            jobs: 1,
            tasks,
            workers: 0,
            leases: 0,
        };
        let refused = table.submit_job(&mut ids, submit(3), &mut Vec::new());
        assert!(
            matches!(
                refused,
                Err(Refusal::TableFull {
                    bound: IDS_PER_ENTRY_MAX,
                    ..
                })
            ),
            "{refused:?}"
        );
        let taken = table.submit_job(&mut ids, submit(2), &mut Vec::new());
        let last = TaskId::at(5, IDS_PER_ENTRY_MAX - 1);
        assert!(matches!(taken, Ok(Reply::Submitted { tasks, .. }) if tasks.last() == Some(&last)));
        table.check_invariants();
    }
}

//! The set of all secondary indexes, updated as records change.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

use crate::command::Concurrency;
use crate::index::concurrency_keys::{ConcurrencyKeyIndex, EligibilityChange};
use crate::index::queue_order::{QueueOrder, QueueOrderKey};
use crate::index::ready_queue::{QueueIndex, ReadyTask};
use crate::index::worker_groups::WorkerGroups;
use crate::records::job::{Counts, Job};
use crate::records::queue::Queue;
use crate::records::task::{Class, Life, Policy, Task};
use crate::records::worker::{Profile, Worker, WorkerLife};
use crate::types::ids::{JobId, TaskId, WorkerId};
use crate::types::state::WorkerState;

/// All secondary indexes. See the folder's module for the invariants.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SecondaryIndexes {
    /// Every queue that has a record, with its key in [`SecondaryIndexes::queue_order`].
    pub queues: BTreeMap<Arc<str>, (QueueIndex, QueueOrderKey)>,
    /// The queues in scheduling order.
    pub queue_order: QueueOrder,
    /// Concurrency keys of tasks that are ready or running.
    pub concurrency_keys: BTreeMap<Arc<str>, ConcurrencyKeyIndex>,
    /// Every policy in use.
    pub policies: Interner<Policy>,
    /// Every profile in use.
    pub profiles: Interner<Profile>,
    /// Delayed tasks by when they become ready.
    pub delays: BTreeSet<(u64, TaskId)>,
    /// Tasks that have not started, by when they expire.
    pub expiries: BTreeSet<(u64, TaskId)>,
    /// Present workers with their leases and used resources.
    pub worker_groups: WorkerGroups,
    /// Names of present workers.
    pub names: BTreeMap<Arc<str>, WorkerId>,
    /// Quarantined workers by when their probation begins.
    pub quarantines: BTreeSet<(u64, WorkerId)>,
    /// Lost and left workers by when they went.
    pub gone_workers: BTreeSet<(u64, WorkerId)>,
    /// Workers by state, in the order of [`WorkerState`]'s variants.
    pub worker_counts: [u64; WorkerState::ALL.len()],
    /// All tasks by state.
    pub counts: Counts,
    /// Bytes of payloads, results and errors of all tasks.
    pub bytes: u64,
    /// Finished jobs by when they finished.
    pub finished_jobs: BTreeSet<(u64, JobId)>,
    /// Tasks of finished jobs.
    pub finished_tasks: u64,
    /// Bytes of payloads, results and errors of finished jobs.
    pub finished_bytes: u64,
    /// Jobs by their idempotency keys.
    pub job_keys: BTreeMap<Arc<str>, JobId>,
    /// Edges of the dependency graph: each task with its dependents, as long as both are in the table.
    pub dependents: BTreeSet<(TaskId, TaskId)>,
    /// Unfinished jobs that other jobs wait for, each with those.
    pub waiting_jobs: BTreeSet<(JobId, JobId)>,
    /// Unfinished tasks by their unique keys.
    pub unique_keys: BTreeMap<Arc<str>, TaskId>,
}

impl SecondaryIndexes {
    pub fn add_task(&mut self, task: &Task) {
        self.counts.add(task.state());
        self.bytes += task.bytes();
        let class = &task.spec.class;
        self.queue_of(class).add(task);
        if let Some(at_ms) = task.may_expire() {
            self.expiries.insert((at_ms, task.id));
        }
        if let Some(key) = task.unique_key()
            && !task.state().is_terminal()
        {
            let other = self.unique_keys.insert(key.clone(), task.id);
            assert_eq!(other, None, "{} shares its unique key {key:?}", task.id);
        }
        match task.life {
            Life::Delayed { until_ms } => {
                self.delays.insert((until_ms, task.id));
            }
            Life::Queued { position } => {
                let ready = ReadyTask::of(task, position);
                match task.concurrency() {
                    None => self.apply_change(EligibilityChange::Eligible(ready)),
                    Some(Concurrency { key, limit }) => {
                        let key = self.concurrency_keys.entry(key.clone()).or_default();
                        let changes = key.add_ready(ready, *limit);
                        self.apply_changes(changes);
                    }
                }
            }
            Life::Running { worker, .. } => {
                self.worker_groups.begin_attempt(worker, task.id, class);
                if let Some(Concurrency { key, limit }) = task.concurrency() {
                    let key = self.concurrency_keys.entry(key.clone()).or_default();
                    let changes = key.add_running(*limit);
                    self.apply_changes(changes);
                }
            }
            Life::Waiting { .. }
            | Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => {}
        }
        self.reorder_queue(&class.queue);
    }

    pub fn drop_task(&mut self, task: &Task) {
        self.counts.remove(task.state());
        self.bytes -= task.bytes();
        let class = &task.spec.class;
        self.queue_of(class).remove(task);
        if let Some(at_ms) = task.may_expire() {
            self.expiries.remove(&(at_ms, task.id));
        }
        if let Some(key) = task.unique_key()
            && !task.state().is_terminal()
        {
            self.unique_keys.remove(key);
        }
        match task.life {
            Life::Delayed { until_ms } => {
                self.delays.remove(&(until_ms, task.id));
            }
            Life::Queued { position } => {
                let ready = ReadyTask::of(task, position);
                match task.concurrency() {
                    None => self.apply_change(EligibilityChange::Ineligible(ready)),
                    Some(concurrency) => self.change_key(concurrency, |key, limit| {
                        key.remove_ready(ready.rank, limit)
                    }),
                }
            }
            Life::Running { worker, .. } => {
                self.worker_groups.end_attempt(worker, task.id, class);
                if let Some(concurrency) = task.concurrency() {
                    self.change_key(concurrency, ConcurrencyKeyIndex::remove_running);
                }
            }
            Life::Waiting { .. }
            | Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => {}
        }
        self.reorder_queue(&class.queue);
    }

    /// Applies a change that removes a task from a concurrency key, and drops the key with its last task.
    fn change_key(
        &mut self,
        concurrency: &Concurrency,
        change: impl FnOnce(&mut ConcurrencyKeyIndex, u32) -> Vec<EligibilityChange>,
    ) {
        let key = self
            .concurrency_keys
            .get_mut(&concurrency.key)
            .expect("a ready or running task's key is indexed");
        let changes = change(key, concurrency.limit);
        if key.is_empty() {
            self.concurrency_keys.remove(&concurrency.key);
        }
        self.apply_changes(changes);
    }

    fn apply_changes(&mut self, changes: Vec<EligibilityChange>) {
        for change in changes {
            let (EligibilityChange::Eligible(ready) | EligibilityChange::Ineligible(ready)) =
                &change;
            let queue = ready.key.0.queue.clone();
            self.apply_change(change);
            self.reorder_queue(&queue);
        }
    }

    fn apply_change(&mut self, change: EligibilityChange) {
        match change {
            EligibilityChange::Eligible(ready) => self.queue_of(&ready.key.0).insert_ready(&ready),
            EligibilityChange::Ineligible(ready) => {
                self.queue_of(&ready.key.0).remove_ready(&ready)
            }
        }
    }

    fn queue_of(&mut self, class: &Class) -> &mut QueueIndex {
        let queue = self.queues.get_mut(&class.queue);
        &mut queue.expect("a task's queue has a record").0
    }

    /// Updates the keys of a queue in the scheduling order.
    fn reorder_queue(&mut self, name: &Arc<str>) {
        if let Some((queue, order_key)) = self.queues.get_mut(name) {
            let now = QueueOrderKey::of(queue);
            self.queue_order.change(name, *order_key, now);
            *order_key = now;
        }
    }

    /// Adds a queue, or takes over its changed record.
    pub fn set_queue(&mut self, record: &Queue) {
        match self.queues.get_mut(&record.name) {
            Some((queue, _)) => queue.record = record.clone(),
            None => {
                let queue = QueueIndex::new(record.clone());
                self.queues
                    .insert(record.name.clone(), (queue, QueueOrderKey::default()));
            }
        }
        self.reorder_queue(&record.name);
    }

    /// Removes a queue. It must have no tasks and no jobs.
    pub fn drop_queue(&mut self, name: &str) {
        if let Some((name, (_, order_key))) = self.queues.remove_entry(name) {
            self.queue_order
                .change(&name, order_key, QueueOrderKey::default());
        }
    }

    /// Returns the index of a queue that has a record.
    pub fn queue(&self, name: &str) -> Option<&QueueIndex> {
        self.queues.get(name).map(|(queue, _)| queue)
    }

    /// Adds the dependencies of a task that came into the table.
    pub fn add_dependencies(&mut self, task: &Task) {
        let pairs = task.after().iter().map(|&first| (first, task.id));
        self.dependents.extend(pairs);
    }

    /// Removes the dependencies of a task that leaves the table.
    pub fn remove_dependencies(&mut self, task: &Task) {
        for &first in task.after() {
            self.dependents.remove(&(first, task.id));
        }
    }

    /// Returns the dependents of this task, ascending.
    pub fn dependents_of(&self, task: TaskId) -> impl Iterator<Item = TaskId> + '_ {
        let pairs = (task, TaskId(0))..=(task, TaskId(u64::MAX));
        self.dependents
            .range(pairs)
            .map(|&(_, dependent)| dependent)
    }

    /// Adds the jobs that a job waits for.
    pub fn add_job_dependencies(&mut self, job: &Job) {
        if job.waits_for_jobs() {
            let pending = job.after_jobs.iter().filter(|after| after.met.is_none());
            self.waiting_jobs
                .extend(pending.map(|after| (after.job, job.id)));
        }
    }

    /// Removes the jobs that a job waits for, before that changes.
    pub fn remove_job_dependencies(&mut self, job: &Job) {
        for after in &job.after_jobs {
            self.waiting_jobs.remove(&(after.job, job.id));
        }
    }

    /// Returns the jobs that wait for this one, ascending.
    pub fn jobs_waiting_for(&self, job: JobId) -> impl Iterator<Item = JobId> + '_ {
        let pairs = (job, JobId(0))..=(job, JobId(u64::MAX));
        self.waiting_jobs.range(pairs).map(|&(_, waiting)| waiting)
    }

    pub fn add_job(&mut self, job: &Job) {
        self.finish_job(job);
        if let Some(idempotency) = &job.idempotency {
            self.job_keys.insert(idempotency.key.clone(), job.id);
        }
    }

    pub fn drop_job(&mut self, job: &Job) {
        self.reopen_job(job);
        if let Some(idempotency) = &job.idempotency {
            self.job_keys.remove(&idempotency.key);
        }
    }

    /// Part of [`SecondaryIndexes::add_job`] that changes with the job's tasks.
    pub fn finish_job(&mut self, job: &Job) {
        if let Some(finished_ms) = job.finished_ms {
            self.finished_jobs.insert((finished_ms, job.id));
            self.finished_tasks += u64::from(job.tasks);
            self.finished_bytes += job.bytes;
            if let Some((queue, _)) = self.queues.get_mut(&job.queue) {
                queue.finished.insert((finished_ms, job.id));
            }
            self.reorder_queue(&job.queue);
        }
    }

    /// Part of [`SecondaryIndexes::drop_job`] that changes with the job's tasks.
    pub fn reopen_job(&mut self, job: &Job) {
        if let Some(finished_ms) = job.finished_ms {
            self.finished_jobs.remove(&(finished_ms, job.id));
            self.finished_tasks -= u64::from(job.tasks);
            self.finished_bytes -= job.bytes;
            if let Some((queue, _)) = self.queues.get_mut(&job.queue) {
                queue.finished.remove(&(finished_ms, job.id));
            }
            self.reorder_queue(&job.queue);
        }
    }

    pub fn add_worker(&mut self, worker: &Worker) {
        match worker.gone_ms() {
            Some(at_ms) => {
                self.worker_counts[worker.state() as usize] += 1;
                self.gone_workers.insert((at_ms, worker.id));
            }
            None => {
                self.names.insert(worker.name.clone(), worker.id);
                self.worker_groups.add(worker);
                self.add_worker_state(worker);
            }
        }
    }

    /// Removes a worker. A present worker must hold no leases any more.
    pub fn drop_worker(&mut self, worker: &Worker) {
        match worker.gone_ms() {
            Some(at_ms) => {
                self.worker_counts[worker.state() as usize] -= 1;
                self.gone_workers.remove(&(at_ms, worker.id));
            }
            None => {
                self.names.remove(&worker.name);
                self.worker_groups.remove(worker.id);
                self.drop_worker_state(worker);
            }
        }
    }

    /// Part of [`SecondaryIndexes::add_worker`] that changes while the worker is present.
    pub fn add_worker_state(&mut self, worker: &Worker) {
        self.worker_counts[worker.state() as usize] += 1;
        if let WorkerLife::Quarantined { until_ms, .. } = worker.life {
            self.quarantines.insert((until_ms, worker.id));
        }
    }

    /// Reverses [`SecondaryIndexes::add_worker_state`].
    pub fn drop_worker_state(&mut self, worker: &Worker) {
        self.worker_counts[worker.state() as usize] -= 1;
        if let WorkerLife::Quarantined { until_ms, .. } = worker.life {
            self.quarantines.remove(&(until_ms, worker.id));
        }
    }

    /// Compares this index with the one rebuilt from the records.
    ///
    /// # Panics
    ///
    /// Panics at the first part in which they differ.
    pub fn assert_same(&self, rebuilt: &SecondaryIndexes) {
        assert_eq!(self.queues, rebuilt.queues);
        assert_eq!(self.policies, rebuilt.policies);
        assert_eq!(self.profiles, rebuilt.profiles);
        assert_eq!(self.delays, rebuilt.delays);
        assert_eq!(self.expiries, rebuilt.expiries);
        assert_eq!(self.queue_order, rebuilt.queue_order);
        assert_eq!(self.concurrency_keys, rebuilt.concurrency_keys);
        assert_eq!(self.worker_groups, rebuilt.worker_groups);
        assert_eq!(self.names, rebuilt.names);
        assert_eq!(self.gone_workers, rebuilt.gone_workers);
        assert_eq!(self.worker_counts, rebuilt.worker_counts);
        assert_eq!(self.job_keys, rebuilt.job_keys);
        assert_eq!(self.dependents, rebuilt.dependents);
        assert_eq!(self.waiting_jobs, rebuilt.waiting_jobs);
        assert_eq!(self.unique_keys, rebuilt.unique_keys);
        assert_eq!(self, rebuilt);
    }

    /// Returns the number of unfinished tasks of a queue that do not run.
    pub fn depth(&self, queue: &str) -> u64 {
        self.queue(queue).map_or(0, |queue| queue.counts.depth())
    }
}

/// Interner: one shared copy of each different value in use, with its number of uses.
#[derive(Debug, PartialEq)]
pub(crate) struct Interner<T: Ord>(BTreeMap<Arc<T>, u64>);

impl<T: Ord> Default for Interner<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Interner<T> {
    /// Returns the shared copy of a value, and counts one more use.
    pub fn acquire(&mut self, value: T) -> Arc<T> {
        self.acquire_shared(Arc::new(value))
    }

    /// As [`Interner::acquire`].
    pub fn acquire_shared(&mut self, value: Arc<T>) -> Arc<T> {
        match self.0.entry(value) {
            btree_map::Entry::Vacant(entry) => {
                let shared = entry.key().clone();
                entry.insert(1);
                shared
            }
            btree_map::Entry::Occupied(mut entry) => {
                *entry.get_mut() += 1;
                entry.key().clone()
            }
        }
    }

    /// Counts one use less, and drops the copy with the last use.
    pub fn release(&mut self, value: &Arc<T>) {
        let uses = self.0.get_mut(value).expect("what is released was taken");
        *uses -= 1;
        if *uses == 0 {
            self.0.remove(value);
        }
    }
}

//! What follows from the records and is kept beside them, so that nothing has to be searched for.
//!
//! Nothing here is state of its own: it is not in snapshots or digests, and rebuilding it from the records gives the
//! same index (the invariant check does exactly that). Records change only between `drop_*` and `add_*`.

pub(crate) mod concurrency_keys;
pub(crate) mod queue_order;
pub(crate) mod ready_queue;
pub(crate) mod worker_groups;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

use crate::command::Concurrency;
use crate::index::concurrency_keys::{KeyIndex, Shown};
use crate::index::queue_order::{Turn, Turns};
use crate::index::ready_queue::{QueueIndex, Stand};
use crate::index::worker_groups::Crews;
use crate::records::job::{Counts, Job};
use crate::records::queue::Queue;
use crate::records::task::{Class, Life, Policy, Task};
use crate::records::worker::{Profile, Worker, WorkerLife};
use crate::types::ids::{JobId, TaskId, WorkerId};
use crate::types::state::WorkerState;

/// See the module.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Index {
    /// Every queue that has a record, with where it stands in [`Index::turns`].
    pub queues: BTreeMap<Arc<str>, (QueueIndex, Turn)>,
    /// Which queues have something to do.
    pub turns: Turns,
    /// Concurrency keys of tasks that are ready or run.
    pub keys: BTreeMap<Arc<str>, KeyIndex>,
    /// Every policy in use.
    pub policies: Interned<Policy>,
    /// Every profile in use.
    pub profiles: Interned<Profile>,
    /// When delayed tasks are ready.
    pub delays: BTreeSet<(u64, TaskId)>,
    /// When tasks that are not started expire.
    pub expiries: BTreeSet<(u64, TaskId)>,
    /// Live and draining workers, with what they hold.
    pub crews: Crews,
    /// Names of live and draining workers.
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
    /// Bytes of finished jobs.
    pub finished_bytes: u64,
    /// Jobs by their idempotency keys.
    pub job_keys: BTreeMap<Arc<str>, JobId>,
    /// Which task is followed by which: each with those that come after it, as long as both are in the table.
    pub dependents: BTreeSet<(TaskId, TaskId)>,
    /// Unfinished tasks by their unique keys.
    pub unique_keys: BTreeMap<Arc<str>, TaskId>,
}

impl Index {
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
            Life::Queued { place } => {
                let stand = Stand::of(task, place);
                match task.concurrency() {
                    None => self.show(Shown::Comes(stand)),
                    Some(Concurrency { key, limit }) => {
                        let key = self.keys.entry(key.clone()).or_default();
                        let changes = key.add_ready(stand, *limit);
                        self.show_all(changes);
                    }
                }
            }
            Life::Running { worker, .. } => {
                self.crews.begin(worker, task.id, class);
                if let Some(Concurrency { key, limit }) = task.concurrency() {
                    let key = self.keys.entry(key.clone()).or_default();
                    let changes = key.add_running(*limit);
                    self.show_all(changes);
                }
            }
            Life::Waiting { .. }
            | Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => {}
        }
        self.reseat(&class.queue);
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
            Life::Queued { place } => {
                let stand = Stand::of(task, place);
                match task.concurrency() {
                    None => self.show(Shown::Goes(stand)),
                    Some(concurrency) => self.change_key(concurrency, |key, limit| {
                        key.remove_ready(stand.rank, limit)
                    }),
                }
            }
            Life::Running { worker, .. } => {
                self.crews.end(worker, task.id, class);
                if let Some(concurrency) = task.concurrency() {
                    self.change_key(concurrency, KeyIndex::remove_running);
                }
            }
            Life::Waiting { .. }
            | Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => {}
        }
        self.reseat(&class.queue);
    }

    /// A task of a key goes, and the key with the last one.
    fn change_key(
        &mut self,
        concurrency: &Concurrency,
        change: impl FnOnce(&mut KeyIndex, u32) -> Vec<Shown>,
    ) {
        let key = self
            .keys
            .get_mut(&concurrency.key)
            .expect("a ready or running task's key is indexed");
        let changes = change(key, concurrency.limit);
        if key.is_empty() {
            self.keys.remove(&concurrency.key);
        }
        self.show_all(changes);
    }

    fn show_all(&mut self, changes: Vec<Shown>) {
        for change in changes {
            let (Shown::Comes(stand) | Shown::Goes(stand)) = &change;
            let queue = stand.line.0.queue.clone();
            self.show(change);
            self.reseat(&queue);
        }
    }

    fn show(&mut self, change: Shown) {
        match change {
            Shown::Comes(stand) => self.queue_of(&stand.line.0).line_up(&stand),
            Shown::Goes(stand) => self.queue_of(&stand.line.0).step_out(&stand),
        }
    }

    fn queue_of(&mut self, class: &Class) -> &mut QueueIndex {
        let queue = self.queues.get_mut(&class.queue);
        &mut queue.expect("a task's queue has a record").0
    }

    /// Puts a queue where it belongs among the others.
    fn reseat(&mut self, name: &Arc<str>) {
        if let Some((queue, turn)) = self.queues.get_mut(name) {
            let now = Turn::of(queue);
            self.turns.change(name, *turn, now);
            *turn = now;
        }
    }

    /// A queue has come, or its record has changed.
    pub fn set_queue(&mut self, record: &Queue) {
        match self.queues.get_mut(&record.name) {
            Some((queue, _)) => queue.record = record.clone(),
            None => {
                let queue = QueueIndex::new(record.clone());
                self.queues
                    .insert(record.name.clone(), (queue, Turn::default()));
            }
        }
        self.reseat(&record.name);
    }

    /// A queue goes. It has no tasks and no jobs.
    pub fn drop_queue(&mut self, name: &str) {
        if let Some((name, (_, turn))) = self.queues.remove_entry(name) {
            self.turns.change(&name, turn, Turn::default());
        }
    }

    /// A queue that has a record.
    pub fn queue(&self, name: &str) -> Option<&QueueIndex> {
        self.queues.get(name).map(|(queue, _)| queue)
    }

    /// A task came into the table: others may come after it.
    pub fn bind(&mut self, task: &Task) {
        let pairs = task.after().iter().map(|&first| (first, task.id));
        self.dependents.extend(pairs);
    }

    /// A task leaves the table.
    pub fn unbind(&mut self, task: &Task) {
        for &first in task.after() {
            self.dependents.remove(&(first, task.id));
        }
    }

    /// The tasks that come after this one, ascending.
    pub fn dependents_of(&self, task: TaskId) -> impl Iterator<Item = TaskId> + '_ {
        let pairs = (task, TaskId(0))..=(task, TaskId(u64::MAX));
        self.dependents
            .range(pairs)
            .map(|&(_, dependent)| dependent)
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

    /// The part of [`Index::add_job`] that changes with its tasks.
    pub fn finish_job(&mut self, job: &Job) {
        if let Some(finished_ms) = job.finished_ms {
            self.finished_jobs.insert((finished_ms, job.id));
            self.finished_tasks += u64::from(job.tasks);
            self.finished_bytes += job.bytes;
            if let Some((queue, _)) = self.queues.get_mut(&job.queue) {
                queue.finished.insert((finished_ms, job.id));
            }
            self.reseat(&job.queue);
        }
    }

    /// The part of [`Index::drop_job`] that changes with its tasks.
    pub fn reopen_job(&mut self, job: &Job) {
        if let Some(finished_ms) = job.finished_ms {
            self.finished_jobs.remove(&(finished_ms, job.id));
            self.finished_tasks -= u64::from(job.tasks);
            self.finished_bytes -= job.bytes;
            if let Some((queue, _)) = self.queues.get_mut(&job.queue) {
                queue.finished.remove(&(finished_ms, job.id));
            }
            self.reseat(&job.queue);
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
                self.crews.add(worker);
                self.add_life(worker);
            }
        }
    }

    /// A live or draining worker must hold nothing any more.
    pub fn drop_worker(&mut self, worker: &Worker) {
        match worker.gone_ms() {
            Some(at_ms) => {
                self.worker_counts[worker.state() as usize] -= 1;
                self.gone_workers.remove(&(at_ms, worker.id));
            }
            None => {
                self.names.remove(&worker.name);
                self.crews.remove(worker.id);
                self.drop_life(worker);
            }
        }
    }

    /// The part of [`Index::add_worker`] that changes while it is present.
    pub fn add_life(&mut self, worker: &Worker) {
        self.worker_counts[worker.state() as usize] += 1;
        if let WorkerLife::Quarantined { until_ms, .. } = worker.life {
            self.quarantines.insert((until_ms, worker.id));
        }
    }

    /// As [`Index::add_life`].
    pub fn drop_life(&mut self, worker: &Worker) {
        self.worker_counts[worker.state() as usize] -= 1;
        if let WorkerLife::Quarantined { until_ms, .. } = worker.life {
            self.quarantines.remove(&(until_ms, worker.id));
        }
    }

    /// Panics at the first part in which this index and the one rebuilt from the records differ.
    pub fn assert_same(&self, rebuilt: &Index) {
        assert_eq!(self.queues, rebuilt.queues);
        assert_eq!(self.policies, rebuilt.policies);
        assert_eq!(self.profiles, rebuilt.profiles);
        assert_eq!(self.delays, rebuilt.delays);
        assert_eq!(self.expiries, rebuilt.expiries);
        assert_eq!(self.turns, rebuilt.turns);
        assert_eq!(self.keys, rebuilt.keys);
        assert_eq!(self.crews, rebuilt.crews);
        assert_eq!(self.names, rebuilt.names);
        assert_eq!(self.gone_workers, rebuilt.gone_workers);
        assert_eq!(self.worker_counts, rebuilt.worker_counts);
        assert_eq!(self.job_keys, rebuilt.job_keys);
        assert_eq!(self.dependents, rebuilt.dependents);
        assert_eq!(self.unique_keys, rebuilt.unique_keys);
        assert_eq!(self, rebuilt);
    }

    /// Unfinished tasks of a queue that do not run.
    pub fn depth(&self, queue: &str) -> u64 {
        self.queue(queue).map_or(0, |queue| queue.counts.depth())
    }
}

/// One shared copy of each different value in use, with how often it is used.
#[derive(Debug, PartialEq)]
pub(crate) struct Interned<T: Ord>(BTreeMap<Arc<T>, u64>);

impl<T: Ord> Default for Interned<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Interned<T> {
    /// The shared copy of a value; counted as one more use.
    pub fn take(&mut self, value: T) -> Arc<T> {
        self.take_shared(Arc::new(value))
    }

    /// As [`Interned::take`].
    pub fn take_shared(&mut self, value: Arc<T>) -> Arc<T> {
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

    /// One use less; the last one takes the copy away.
    pub fn release(&mut self, value: &Arc<T>) {
        let uses = self.0.get_mut(value).expect("what is released was taken");
        *uses -= 1;
        if *uses == 0 {
            self.0.remove(value);
        }
    }
}

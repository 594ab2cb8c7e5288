//! The table: its records, its secondary indexes, and read access to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::reply::Lease;
use crate::index::SecondaryIndexes;
use crate::records::dedup::{AnsweredRequest, DedupStore, RecordedReply, RetiredKey};
use crate::records::job::{Counts, Idempotency, Job, SubmissionReceipt};
use crate::records::paged::Paged;
use crate::records::pending_restore::PendingRestore;
use crate::records::queue::Queue;
use crate::records::schedule::Schedules;
use crate::records::staged_job::StagedJob;
use crate::records::task::{QueuePosition, Task};
use crate::records::worker::{FailureStreak, Worker, WorkerLife};
use crate::types::ids::{JobId, TaskId, WorkerId};
use crate::types::limits::Limits;
use crate::types::queue_options::QueueSettings;
use crate::types::state::WorkerState;

/// Housekeeping is due on whole multiples of this interval, so that it runs in batches.
const HOUSEKEEPING_INTERVAL_MS: u64 = 1_000;

/// The task and worker table. See the crate's documentation.
#[derive(Debug)]
pub struct Table {
    pub(crate) limits: Limits,
    pub(crate) now_ms: u64,
    pub(crate) last_index: u64,
    /// Offset added to a log index where an id or a token is derived from it. In a table restored from a backup it is
    /// beyond the other cluster's log; see `records/pending_restore`.
    pub(crate) id_offset: u64,
    /// The name of the backup this table was restored from.
    pub(crate) restored: Option<Arc<str>>,
    /// A restore of which parts are still missing.
    pub(crate) pending_restore: Option<PendingRestore>,
    /// Queue positions assigned so far.
    pub(crate) last_position: u64,
    pub(crate) jobs: Paged<Job>,
    pub(crate) tasks: Paged<Task>,
    pub(crate) workers: Paged<Worker>,
    /// Every queue that a task in the table names, or that has settings of its own.
    pub(crate) queues: BTreeMap<Arc<str>, Queue>,
    /// Multipart jobs of which parts are missing, by their keys.
    pub(crate) staged_jobs: BTreeMap<Arc<str>, StagedJob>,
    /// Virtual time of fair queueing, in shares. A queue that becomes active begins here.
    pub(crate) virtual_time: u64,
    pub(crate) answered_requests: DedupStore<AnsweredRequest>,
    pub(crate) retired_keys: DedupStore<RetiredKey>,
    pub(crate) schedules: Schedules,
    pub(crate) index: SecondaryIndexes,
}

impl Table {
    /// Returns an empty table. Its limits are replicated state: every replica must start with the same.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now_ms: 0,
            last_index: 0,
            id_offset: 0,
            restored: None,
            pending_restore: None,
            last_position: 0,
            jobs: Paged::default(),
            tasks: Paged::default(),
            workers: Paged::default(),
            queues: BTreeMap::new(),
            staged_jobs: BTreeMap::new(),
            virtual_time: 0,
            answered_requests: DedupStore::default(),
            retired_keys: DedupStore::default(),
            schedules: Schedules::default(),
            index: SecondaryIndexes::default(),
        }
    }

    /// Returns its bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the greatest stamp applied so far, in Unix ms.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Returns the id of the backup that was restored into this table, if one was.
    pub fn restored_backup(&self) -> Option<&str> {
        self.restored.as_deref()
    }

    /// Returns the log index of the last entry applied; 0 before the first.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Returns the index of the last entry applied, with the offset of ids and tokens.
    pub(crate) fn id_index(&self) -> u64 {
        self.id_offset.saturating_add(self.last_index)
    }

    /// Returns the newest task that is still in the table.
    pub fn last_task(&self) -> Option<TaskId> {
        self.tasks.last().map(|task| task.id)
    }

    /// Returns a job by its id.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(id)
    }

    /// Returns a task by its id.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(id)
    }

    /// Returns a worker by its id. Lost and left workers are remembered for a while.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// Returns the present worker of this name.
    pub fn worker_named(&self, name: &str) -> Option<&Worker> {
        self.workers.get(*self.index.names.get(name)?)
    }

    /// Returns all remembered workers, by id.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// Returns the virtual time of fair queueing, in shares. A queue that becomes active begins here.
    pub fn virtual_time(&self) -> u64 {
        self.virtual_time
    }

    /// Returns the number of jobs, finished ones that are still kept included.
    pub fn jobs_len(&self) -> usize {
        self.jobs.len()
    }

    /// Returns the number of tasks in each state.
    pub fn counts(&self) -> &Counts {
        &self.index.counts
    }

    /// Returns the number of remembered workers in this state.
    pub fn workers_in(&self, state: WorkerState) -> u64 {
        self.index.worker_counts[state as usize]
    }

    /// Returns the bytes of payloads, results and errors in the table.
    pub fn bytes(&self) -> u64 {
        self.index.bytes
    }

    /// Returns the lease under which a task runs.
    pub fn lease(&self, task: TaskId) -> Option<Lease> {
        self.tasks.get(task)?.lease()
    }

    /// Returns the leases a worker holds, by task.
    pub fn leases_of(&self, worker: WorkerId) -> impl Iterator<Item = Lease> + '_ {
        let usage = self.index.worker_groups.usage().get(&worker);
        let tasks = usage.into_iter().flat_map(|usage| usage.running.iter());
        tasks.filter_map(|&task| self.lease(task))
    }

    /// Returns all leases, by worker and task.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.index
            .worker_groups
            .usage()
            .keys()
            .flat_map(|&worker| self.leases_of(worker))
    }

    /// Returns the number of leases a worker holds.
    pub fn running_on(&self, worker: WorkerId) -> u32 {
        self.index
            .worker_groups
            .usage()
            .get(&worker)
            .map_or(0, |usage| usage.load().running)
    }

    /// Returns when `AdvanceTime` next has something to do, in Unix ms; at once if that is not after [`Table::now_ms`].
    /// Delays, expiries and probations are exact to the millisecond. Housekeeping is rounded up to a whole interval, so
    /// that it runs in batches.
    pub fn next_timer_ms(&self) -> Option<u64> {
        let delay = self.index.delays.first().map(|&(at_ms, _)| at_ms);
        let expiry = self.index.expiries.first().map(|&(at_ms, _)| at_ms);
        let probation = self.index.quarantines.first().map(|&(at_ms, _)| at_ms);
        let housekeeping = self.housekeeping_ms();
        [delay, expiry, probation, housekeeping]
            .into_iter()
            .flatten()
            .min()
    }

    fn housekeeping_ms(&self) -> Option<u64> {
        if self.too_many_finished() {
            return Some(self.now_ms);
        }
        let limits = &self.limits;
        let job = self
            .index
            .finished_jobs
            .first()
            .map(|&(at_ms, _)| (at_ms, limits.finished_age_ms));
        let worker = self
            .index
            .gone_workers
            .first()
            .map(|&(at_ms, _)| (at_ms, limits.gone_workers_age_ms));
        let request = self
            .answered_requests
            .oldest_ms()
            .map(|at_ms| (at_ms, limits.requests_age_ms));
        let key = self
            .retired_keys
            .oldest_ms()
            .map(|at_ms| (at_ms, limits.keys_age_ms));
        let staged = self
            .staged_jobs
            .values()
            .map(|staged| staged.touched_ms)
            .min();
        let staged = staged.map(|at_ms| (at_ms, limits.staged_age_ms));
        let pending_restore = self.pending_restore.as_ref();
        let pending_restore = pending_restore
            .map(|pending_restore| (pending_restore.touched_ms, limits.staged_age_ms));
        let queue = self.index.queue_order.retention_due.first();
        let queue = queue.map(|&(at_ms, _)| (at_ms, 0));
        let due = [job, queue, staged, pending_restore, worker, request, key]
            .into_iter()
            .flatten()
            .map(|(at_ms, age_ms)| {
                at_ms
                    .saturating_add(age_ms)
                    .div_ceil(HOUSEKEEPING_INTERVAL_MS)
                    .saturating_mul(HOUSEKEEPING_INTERVAL_MS)
            });
        due.min()
    }

    /// Returns whether more finished jobs are kept than the limits allow.
    pub(crate) fn too_many_finished(&self) -> bool {
        self.index.finished_jobs.len() as u64 > self.limits.finished_jobs_max
            || self.index.finished_tasks > self.limits.finished_tasks_max
            || self.index.finished_bytes > self.limits.finished_bytes_max
    }

    /// Assigns a new position in the queues, behind all earlier ones of the same priority.
    pub(crate) fn next_position(&mut self) -> QueuePosition {
        self.last_position += 1;
        QueuePosition {
            order: self.last_position,
            since_ms: self.now_ms,
        }
    }

    /// Forgets a finished job with its tasks; its idempotency key is kept for a while.
    pub(crate) fn forget_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(id) else {
            return;
        };
        self.index.drop_job(&job);
        self.index.remove_job_dependencies(&job);
        let receipt = job.receipt();
        for task in job.task_ids() {
            let task = self.tasks.remove(task).expect("a job's tasks are there");
            assert!(
                task.state().is_terminal(),
                "{} is forgotten while {}",
                task.id,
                task.state().as_str()
            );
            self.index.drop_task(&task);
            self.index.policies.release(&task.spec.policy);
            self.index.remove_dependencies(&task);
            self.drop_idle_queue(&task.spec.class.queue);
        }
        self.drop_idle_queue(&job.queue);
        if let Some(idempotency) = job.idempotency {
            self.retire_key(idempotency, receipt);
        }
    }

    /// Creates the record of a queue at its first use.
    pub(crate) fn open_queue(&mut self, name: &Arc<str>) {
        if !self.queues.contains_key(name) {
            let queue = Queue::new(name.clone());
            self.index.set_queue(&queue);
            self.queues.insert(name.clone(), queue);
        }
    }

    /// Forgets a queue that no task or job names and that has no settings of its own.
    pub(crate) fn drop_idle_queue(&mut self, name: &str) {
        let idle = self
            .index
            .queue(name)
            .is_some_and(|queue| queue.is_empty() && queue.finished.is_empty());
        let plain = |queue: &Queue| queue.settings == QueueSettings::default();
        if idle && self.queues.get(name).is_some_and(plain) {
            self.queues.remove(name);
            self.index.drop_queue(name);
        }
    }

    /// Remembers an idempotency key whose job is not in the table.
    pub(crate) fn retire_key(&mut self, idempotency: Arc<Idempotency>, receipt: SubmissionReceipt) {
        let key = RetiredKey {
            number: self.retired_keys.next_number(),
            idempotency,
            at_ms: self.now_ms,
            receipt,
        };
        self.retired_keys.push(key, self.limits.keys_max);
    }

    /// Marks a present worker as lost or left, and keeps the index in step. The worker must hold no leases any more.
    pub(crate) fn mark_worker_gone(&mut self, id: WorkerId, life: WorkerLife) {
        let worker = self.workers.get_mut(id).expect("the caller found it");
        self.index.drop_worker(worker);
        worker.life = life;
        worker.streak = FailureStreak::default();
        self.index.add_worker(worker);
        while self.index.gone_workers.len() as u64 > self.limits.gone_workers_max {
            self.forget_oldest_worker();
        }
    }

    /// Forgets the worker that has been gone longest.
    pub(crate) fn forget_oldest_worker(&mut self) {
        let Some(&(_, id)) = self.index.gone_workers.first() else {
            return;
        };
        let worker = self.workers.remove(id).expect("indexed workers are there");
        self.index.drop_worker(&worker);
        self.index.profiles.release(&worker.profile);
    }

    /// Remembers an answer under its request id, if there is one.
    pub(crate) fn record_reply(&mut self, request: Option<String>, reply: RecordedReply) {
        if let Some(request) = request {
            let answered = AnsweredRequest {
                number: self.answered_requests.next_number(),
                request: Arc::from(request),
                at_ms: self.now_ms,
                reply,
            };
            self.answered_requests
                .push(answered, self.limits.requests_max);
        }
    }
}

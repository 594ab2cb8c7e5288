//! The table itself: its records, how they change together, and how they are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::event::Event;
use crate::command::reply::Lease;
use crate::index::Index;
use crate::records::dedup::{Answer, Answered, Memory, OldKey};
use crate::records::job::{Counts, Idempotency, Job, Roll};
use crate::records::paged::Paged;
use crate::records::pending_restore::Restoring;
use crate::records::queue::{Queue, QueueSettings};
use crate::records::schedule::Schedules;
use crate::records::staged_job::Staged;
use crate::records::task::{Place, Task};
use crate::records::worker::{Worker, WorkerLife};
use crate::rules::dependencies::Sequel;
use crate::rules::quarantine::Streak;
use crate::types::ids::{JobId, TaskId, WorkerId};
use crate::types::limits::Limits;
use crate::types::state::WorkerState;

/// Housekeeping is due on whole multiples of this, so that it comes in batches.
const HOUSEKEEPING_MS: u64 = 1_000;

/// The task and worker table. See the crate's documentation.
#[derive(Debug)]
pub struct Table {
    pub(crate) limits: Limits,
    pub(crate) now_ms: u64,
    pub(crate) last_index: u64,
    /// What is added to a log index where an id or a token is made of it: beyond how far another cluster's log had come,
    /// when this table was restored from its backup.
    pub(crate) base: u64,
    /// The backup this table was restored from.
    pub(crate) restored: Option<Arc<str>>,
    /// A backup of which parts are missing.
    pub(crate) restoring: Option<Restoring>,
    /// Places taken in queues so far.
    pub(crate) places: u64,
    pub(crate) jobs: Paged<Job>,
    pub(crate) tasks: Paged<Task>,
    pub(crate) workers: Paged<Worker>,
    /// Every queue that a task in the table names, or that has settings of its own.
    pub(crate) queues: BTreeMap<Arc<str>, Queue>,
    /// Large jobs of which parts are missing, by their keys.
    pub(crate) staged: BTreeMap<Arc<str>, Staged>,
    /// How much the queue that was last served had been served before: where one that comes anew begins.
    pub(crate) served: u64,
    pub(crate) answers: Memory<Answered>,
    pub(crate) old_keys: Memory<OldKey>,
    pub(crate) schedules: Schedules,
    pub(crate) index: Index,
}

impl Table {
    /// An empty table. Its limits are replicated state: every replica must start with the same.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now_ms: 0,
            last_index: 0,
            base: 0,
            restored: None,
            restoring: None,
            places: 0,
            jobs: Paged::default(),
            tasks: Paged::default(),
            workers: Paged::default(),
            queues: BTreeMap::new(),
            staged: BTreeMap::new(),
            served: 0,
            answers: Memory::default(),
            old_keys: Memory::default(),
            schedules: Schedules::default(),
            index: Index::default(),
        }
    }

    /// Its bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The greatest stamp applied so far, in Unix ms.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Log index of the last entry applied; 0 before the first.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The last entry applied, as ids and tokens count it.
    pub(crate) fn here(&self) -> u64 {
        self.base.saturating_add(self.last_index)
    }

    /// The last task that came into being and is still there.
    pub fn last_task(&self) -> Option<TaskId> {
        self.tasks.last().map(|task| task.id)
    }

    /// A job by its id.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(id)
    }

    /// A task by its id.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(id)
    }

    /// A worker by its id; lost and left ones are remembered for a while.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// The live or draining worker of this name.
    pub fn worker_named(&self, name: &str) -> Option<&Worker> {
        self.workers.get(*self.index.names.get(name)?)
    }

    /// All workers that are remembered, by id.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// How much the queue that was last served had been served before, in shares: where one that comes anew begins.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// How many jobs there are, finished ones that are still kept included.
    pub fn jobs_len(&self) -> usize {
        self.jobs.len()
    }

    /// How many tasks there are in each state.
    pub fn counts(&self) -> &Counts {
        &self.index.counts
    }

    /// How many workers are remembered in this state.
    pub fn workers_in(&self, state: WorkerState) -> u64 {
        self.index.worker_counts[state as usize]
    }

    /// Bytes of payloads, results and errors in the table.
    pub fn bytes(&self) -> u64 {
        self.index.bytes
    }

    /// The lease under which a task runs.
    pub fn lease(&self, task: TaskId) -> Option<Lease> {
        self.tasks.get(task)?.lease()
    }

    /// The leases a worker holds, by task.
    pub fn leases_of(&self, worker: WorkerId) -> impl Iterator<Item = Lease> + '_ {
        let holding = self.index.crews.holdings().get(&worker);
        let tasks = holding
            .into_iter()
            .flat_map(|holding| holding.running.iter());
        tasks.filter_map(|&task| self.lease(task))
    }

    /// All leases, by worker and task.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.index
            .crews
            .holdings()
            .keys()
            .flat_map(|&worker| self.leases_of(worker))
    }

    /// How many leases a worker holds.
    pub fn running_on(&self, worker: WorkerId) -> u32 {
        self.index
            .crews
            .holdings()
            .get(&worker)
            .map_or(0, |holding| holding.load().running)
    }

    /// When `AdvanceTime` next has something to do, in Unix ms: at once if that is not after [`Table::now_ms`]. A delay
    /// or an expiry is told to the millisecond, housekeeping only roughly, so that it comes in batches.
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
        let answer = self
            .answers
            .oldest_ms()
            .map(|at_ms| (at_ms, limits.requests_age_ms));
        let key = self
            .old_keys
            .oldest_ms()
            .map(|at_ms| (at_ms, limits.keys_age_ms));
        let staged = self.staged.values().map(|staged| staged.touched_ms).min();
        let staged = staged.map(|at_ms| (at_ms, limits.staged_age_ms));
        let restoring = self.restoring.as_ref();
        let restoring = restoring.map(|restoring| (restoring.touched_ms, limits.staged_age_ms));
        let queue = self.index.turns.forgetful.first();
        let queue = queue.map(|&(at_ms, _)| (at_ms, 0));
        let due = [job, queue, staged, restoring, worker, answer, key]
            .into_iter()
            .flatten()
            .map(|(at_ms, age_ms)| {
                at_ms
                    .saturating_add(age_ms)
                    .div_ceil(HOUSEKEEPING_MS)
                    .saturating_mul(HOUSEKEEPING_MS)
            });
        due.min()
    }

    /// Whether more finished jobs are kept than the limits allow.
    pub(crate) fn too_many_finished(&self) -> bool {
        self.index.finished_jobs.len() as u64 > self.limits.finished_jobs_max
            || self.index.finished_tasks > self.limits.finished_tasks_max
            || self.index.finished_bytes > self.limits.finished_bytes_max
    }

    /// A new place in the queues, behind all others of its priority.
    pub(crate) fn new_place(&mut self) -> Place {
        self.places += 1;
        Place {
            order: self.places,
            since_ms: self.now_ms,
        }
    }

    /// The one way in which a task changes: keeps the index, its job and the events in step, and lets follow what that
    /// means for other tasks of the job.
    pub(crate) fn change_task(
        &mut self,
        id: TaskId,
        events: &mut Vec<Event>,
        change: impl FnOnce(&mut Task),
    ) {
        if let Some(first) = self.change_alone(id, events, change) {
            self.follow(first, events);
        }
    }

    /// As [`Table::change_task`], but what follows is told and not done.
    pub(crate) fn change_alone(
        &mut self,
        id: TaskId,
        events: &mut Vec<Event>,
        change: impl FnOnce(&mut Task),
    ) -> Option<Sequel> {
        let task = self.tasks.get_mut(id).expect("the caller found it");
        let (state_before, bytes_before) = (task.state(), task.bytes());
        self.index.drop_task(task);
        change(task);
        self.index.add_task(task);
        let (state, bytes, job_id) = (task.state(), task.bytes(), task.job);

        let job = self.jobs.get_mut(job_id).expect("a task's job is there");
        self.index.reopen_job(job);
        job.counts.remove(state_before);
        job.counts.add(state);
        job.bytes = job.bytes - bytes_before + bytes;
        let was_finished = job.finished_ms.is_some();
        let is_finished = job.counts.unfinished() == 0;
        if was_finished != is_finished {
            job.finished_ms = is_finished.then_some(self.now_ms);
        }
        let (job_state, on_failure) = (job.state(), job.on_failure);
        self.index.finish_job(job);

        if state_before != state {
            events.push(Event::TaskChanged {
                task: id,
                job: job_id,
                to: state,
            });
        }
        if is_finished && !was_finished {
            events.push(Event::JobFinished {
                job: job_id,
                state: job_state,
            });
        }
        Sequel::of(id, state_before, state, on_failure).filter(|_| !is_finished)
    }

    /// Forgets a finished job with its tasks; its idempotency key lives on for a while.
    pub(crate) fn forget_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(id) else {
            return;
        };
        self.index.drop_job(&job);
        let roll = job.roll();
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
            self.index.unbind(&task);
            self.drop_idle_queue(&task.spec.class.queue);
        }
        self.drop_idle_queue(&job.queue);
        if let Some(idempotency) = job.idempotency {
            self.remember_key(idempotency, roll);
        }
    }

    /// The record of a queue; made at its first use.
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
    pub(crate) fn remember_key(&mut self, idempotency: Arc<Idempotency>, roll: Roll) {
        let key = OldKey {
            number: self.old_keys.next_number(),
            idempotency,
            at_ms: self.now_ms,
            roll,
        };
        self.old_keys.push(key, self.limits.keys_max);
    }

    /// Ends the time of a present worker, and keeps the index in step. It must hold nothing any more.
    pub(crate) fn end_worker_as(&mut self, id: WorkerId, life: WorkerLife) {
        let worker = self.workers.get_mut(id).expect("the caller found it");
        self.index.drop_worker(worker);
        worker.life = life;
        worker.streak = Streak::default();
        self.index.add_worker(worker);
        while self.index.gone_workers.len() as u64 > self.limits.gone_workers_max {
            self.forget_oldest_worker();
        }
    }

    /// Forgets the worker that went first.
    pub(crate) fn forget_oldest_worker(&mut self) {
        let Some(&(_, id)) = self.index.gone_workers.first() else {
            return;
        };
        let worker = self.workers.remove(id).expect("indexed workers are there");
        self.index.drop_worker(&worker);
        self.index.profiles.release(&worker.profile);
    }

    /// Remembers an answer under its request id, if there is one.
    pub(crate) fn remember(&mut self, request: Option<String>, answer: Answer) {
        if let Some(request) = request {
            let answered = Answered {
                number: self.answers.next_number(),
                request: Arc::from(request),
                at_ms: self.now_ms,
                answer,
            };
            self.answers.push(answered, self.limits.requests_max);
        }
    }
}

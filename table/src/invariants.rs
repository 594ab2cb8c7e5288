//! Invariants that hold for every table after every command. A violation is a bug and panics with the values. In a
//! snapshot that was read it is damage, and the snapshot is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::command::DependencyCondition;
use crate::index::SecondaryIndexes;
use crate::records::job::{Counts, Job};
use crate::records::task::{Life, Task};
use crate::table::Table;
use crate::types::ids::{IDS_PER_ENTRY_MAX, TaskId, WorkerId};
use crate::types::queue_options::QueueSettings;
use crate::types::state::TaskState;

/// Returns an error with a message from the surrounding function unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

impl Table {
    /// Checks the whole table against its invariants; for tests and diagnosis.
    ///
    /// # Panics
    ///
    /// Panics at the first violation.
    pub fn check_invariants(&self) {
        if let Some(problem) = self.unsound() {
            panic!("the table is unsound: {problem}");
        }
        let rebuilt = self.indexed();
        self.index.assert_same(&rebuilt);
    }

    /// Returns the first violation in the records, if any.
    pub(crate) fn unsound(&self) -> Option<String> {
        let pages = [self.jobs.fault(), self.tasks.fault(), self.workers.fault()];
        let dedup_stores = [self.answered_requests.fault(), self.retired_keys.fault()];
        let fault = pages.into_iter().chain(dedup_stores).flatten().next();
        fault.or_else(|| {
            self.check_jobs()
                .and_then(|()| self.check_unique_keys())
                .and_then(|()| self.check_workers())
                .and_then(|()| self.check_positions())
                .and_then(|()| self.check_queues())
                .and_then(|()| self.schedules.unsound().map_or(Ok(()), Err))
                .err()
        })
    }

    /// Rebuilds the secondary indexes from the records.
    pub(crate) fn rebuild_index(&mut self) {
        self.index = self.indexed();
    }

    fn indexed(&self) -> SecondaryIndexes {
        let mut index = SecondaryIndexes::default();
        for queue in self.queues.values() {
            index.set_queue(queue);
        }
        for worker in self.workers.iter() {
            index.add_worker(worker);
            index.profiles.acquire_shared(worker.profile.clone());
        }
        for task in self.tasks.iter() {
            index.add_task(task);
            index.policies.acquire_shared(task.spec.policy.clone());
            index.add_dependencies(task);
        }
        for job in self.jobs.iter() {
            index.add_job(job);
            index.add_job_dependencies(job);
        }
        index
    }

    /// Checks that every task has its job, that every job has its tasks, and that the counts are right.
    fn check_jobs(&self) -> Result<(), String> {
        let mut keys: BTreeSet<&str> = BTreeSet::new();
        let mut tasks = self.tasks.iter();
        for job in self.jobs.iter() {
            ensure!(job.tasks > 0, "{} has no tasks", job.id);
            let last = job.first_task.position() + u64::from(job.tasks) - 1;
            ensure!(
                last < IDS_PER_ENTRY_MAX,
                "{} has more tasks than ids",
                job.id
            );
            let (mut counts, mut bytes, mut not_needed) = (Counts::default(), 0, 0);
            for id in job.task_ids() {
                let task = tasks
                    .next()
                    .filter(|task| task.id == id && task.job == job.id);
                let Some(task) = task else {
                    return Err(format!("{} misses {id}", job.id));
                };
                self.check_task(task)?;
                self.check_constraints(task, job.waits_for_jobs())?;
                counts.add(task.state());
                bytes += task.bytes();
                not_needed += u32::from(task.is_not_needed());
            }
            ensure!(
                job.not_needed == not_needed,
                "{} counts {} tasks that are not needed, there are {not_needed}",
                job.id,
                job.not_needed
            );
            self.check_job(job, &counts, bytes)?;
            self.check_job_dependencies(job)?;
            if let Some(idempotency) = &job.idempotency {
                let key = &idempotency.key;
                ensure!(
                    keys.insert(key),
                    "the key {key} of {} is another job's too",
                    job.id
                );
                ensure!(
                    self.retired_keys.get(key).is_none(),
                    "the key {key} of {} is an old one too",
                    job.id
                );
            }
        }
        tasks
            .next()
            .map_or(Ok(()), |task| Err(format!("{} belongs to no job", task.id)))
    }

    /// Checks that a job waits for unfinished jobs, and for none once it has ended.
    fn check_job_dependencies(&self, job: &Job) -> Result<(), String> {
        if !job.waits_for_jobs() {
            return Ok(());
        }
        for after in job.after_jobs.iter().filter(|after| after.met.is_none()) {
            let unfinished = |other: &Job| other.finished_ms.is_none();
            ensure!(
                after.job < job.id && self.jobs.get(after.job).is_some_and(unfinished),
                "{} waits for {}, which does not run",
                job.id,
                after.job
            );
        }
        Ok(())
    }

    fn check_job(&self, job: &Job, counts: &Counts, bytes: u64) -> Result<(), String> {
        ensure!(
            job.counts == *counts,
            "{} counts {:?}, its tasks are {counts:?}",
            job.id,
            job.counts
        );
        ensure!(
            job.bytes == bytes,
            "{} counts {} bytes, its tasks have {bytes}",
            job.id,
            job.bytes
        );
        let finished = counts.unfinished() == 0;
        ensure!(
            job.finished_ms.is_some() == finished,
            "{} finished {:?} with {counts:?}",
            job.id,
            job.finished_ms
        );
        ensure!(
            job.id.index() <= self.id_index(),
            "{} is from after entry {}",
            job.id,
            self.id_index()
        );
        ensure!(
            job.created_ms <= self.now_ms,
            "{} is from the future: {}",
            job.id,
            job.created_ms
        );
        Ok(())
    }

    fn check_task(&self, task: &Task) -> Result<(), String> {
        let (id, policy) = (task.id, &task.spec.policy);
        ensure!(
            policy.priority <= 9,
            "{id} has priority {}",
            policy.priority
        );
        ensure!(
            id.index() == task.job.index(),
            "{id} and its {} are of different entries",
            task.job
        );
        let kept = task.history.len();
        ensure!(
            kept <= self.limits.attempts_kept_max as usize,
            "{id} remembers {kept} attempts"
        );
        let running = u32::from(task.lease().is_some());
        let ended = task.attempt.checked_sub(running);
        ensure!(
            ended.is_some_and(|ended| kept <= ended as usize),
            "{id}: attempt {} after {kept}",
            task.attempt
        );
        let last = task.history.last().map(|attempt| attempt.attempt);
        ensure!(
            last.unwrap_or(0) == ended.unwrap_or(0),
            "{id}: attempt {} after {last:?}",
            task.attempt
        );
        let tokens: Vec<_> = task
            .history
            .iter()
            .map(|attempt| attempt.token)
            .chain(task.lease().map(|lease| lease.token))
            .collect();
        ensure!(
            tokens.is_sorted_by(|a, b| a < b),
            "{id}: tokens do not grow: {tokens:?}"
        );
        if !task.state().is_terminal() {
            ensure!(
                task.failures < policy.max_attempts && task.losses < policy.max_losses,
                "{id} is {} after {} failures and {} losses",
                task.state().as_str(),
                task.failures,
                task.losses
            );
        }
        Ok(())
    }

    /// Checks the dependencies of a task.
    ///
    /// - A waiting task waits for exactly those dependencies that have not ended, and all others ended as they should.
    /// - All dependencies of a task that may start or runs have ended as they should.
    /// - All dependencies that a task needed to succeed have succeeded once it has succeeded or failed. Others may have been
    ///   retried since.
    /// - Tasks without dependencies wait while their job waits for others.
    fn check_constraints(&self, task: &Task, job_waits: bool) -> Result<(), String> {
        let id = task.id;
        ensure!(
            task.after().is_sorted_by(|a, b| a < b),
            "{id} comes after {:?}",
            task.after()
        );
        let conditions = task.conditions();
        ensure!(
            conditions.is_empty()
                || conditions.len() == task.after().len()
                    && conditions
                        .iter()
                        .any(|&when| when != DependencyCondition::default()),
            "{id} comes after {:?} under {conditions:?}",
            task.after()
        );
        let (mut missing, mut lacking) = (0, 0);
        for (first, when) in task.dependencies() {
            let Some(first) = self.tasks.get(first).filter(|first| first.job == task.job) else {
                return Err(format!("{id} comes after {first}, which is not of its job"));
            };
            let met = first.meets(when);
            missing += u32::from(met.is_none());
            lacking += u32::from(when == DependencyCondition::Succeeded && met != Some(true));
            let needs_all = matches!(
                task.life,
                Life::Delayed { .. } | Life::Queued { .. } | Life::Running { .. }
            );
            ensure!(
                met == Some(true)
                    || !needs_all && (met.is_none() || task.state() != TaskState::Waiting),
                "{id} is {} after {}, which is {} and was to be {}",
                task.state().as_str(),
                first.id,
                first.state().as_str(),
                when.as_str()
            );
        }
        let waits_for_jobs = job_waits && task.after().is_empty();
        missing += u32::from(waits_for_jobs);
        ensure!(
            !waits_for_jobs || task.state() == TaskState::Waiting || task.state().is_terminal(),
            "{id} is {} while its job waits for others",
            task.state().as_str()
        );
        match task.life {
            Life::Waiting { on, .. } => {
                ensure!(on == missing && on > 0, "{id} waits on {on}, not {missing}")
            }
            Life::Cancelled { .. }
            | Life::Expired { .. }
            | Life::Delayed { .. }
            | Life::Queued { .. }
            | Life::Running { .. } => {}
            Life::Succeeded { .. } | Life::Failed { .. } => {
                ensure!(
                    lacking == 0,
                    "{id} is {} with {lacking} of its inputs missing",
                    task.state().as_str()
                )
            }
        }
        Ok(())
    }

    /// Checks that no two unfinished tasks share a unique key. The index holds one task for each.
    fn check_unique_keys(&self) -> Result<(), String> {
        let mut holders: BTreeMap<&str, TaskId> = BTreeMap::new();
        for task in self.tasks.iter() {
            let Some(key) = task.unique_key() else {
                continue;
            };
            if task.state().is_terminal() {
                continue;
            }
            if let Some(other) = holders.insert(key, task.id) {
                return Err(format!(
                    "{} shares the unique key {key:?} with {other}",
                    task.id
                ));
            }
        }
        Ok(())
    }

    /// Checks that no two present workers share a name, and that none is oversubscribed or runs a task it does not
    /// take.
    fn check_workers(&self) -> Result<(), String> {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for worker in self
            .workers
            .iter()
            .filter(|worker| worker.gone_ms().is_none())
        {
            ensure!(
                names.insert(&worker.name),
                "{} shares the name {} with another",
                worker.id,
                worker.name
            );
        }
        let mut loads: BTreeMap<WorkerId, (u32, BTreeMap<&str, u64>)> = BTreeMap::new();
        for (task, lease) in self
            .tasks
            .iter()
            .filter_map(|task| Some((task, task.lease()?)))
        {
            let worker = self
                .workers
                .get(lease.worker)
                .filter(|worker| worker.gone_ms().is_none());
            let Some(worker) = worker else {
                return Err(format!("{} runs on {}", task.id, lease.worker));
            };
            let class = &task.spec.class;
            ensure!(
                worker.profile.takes(class),
                "{} does not take {}",
                worker.id,
                task.id
            );
            let (running, used) = loads.entry(worker.id).or_default();
            *running += 1;
            ensure!(
                *running <= worker.slots,
                "{} has {} slots and runs more",
                worker.id,
                worker.slots
            );
            for (name, amount) in class.requires.amounts() {
                let used = used.entry(name).or_default();
                let total = worker.profile.resources.get(name).copied().unwrap_or(0);
                *used = used.saturating_add(amount);
                ensure!(
                    *used <= total,
                    "{} has {total} of {name}, {used} are used",
                    worker.id
                );
            }
        }
        Ok(())
    }

    /// Checks that every queue that a task or job names has a record, and that every other queue has settings of its
    /// own.
    fn check_queues(&self) -> Result<(), String> {
        let jobs = self.jobs.iter().map(|job| &job.queue);
        let tasks = self.tasks.iter().map(|task| &task.spec.class.queue);
        let named: BTreeSet<&Arc<str>> = jobs.chain(tasks).collect();
        let missing = named.iter().find(|name| !self.queues.contains_key(**name));
        ensure!(missing.is_none(), "queue {missing:?} has no record");
        for queue in self.queues.values() {
            ensure!(
                named.contains(&queue.name) || queue.settings != QueueSettings::default(),
                "queue {} is kept for nothing",
                queue.name
            );
            ensure!(
                queue.settings.weight > 0,
                "queue {} has no weight",
                queue.name
            );
            ensure!(
                queue
                    .settings
                    .rate
                    .is_none_or(|rate| rate.per_s_milli > 0 && rate.burst > 0),
                "queue {} has the rate {:?}",
                queue.name,
                queue.settings.rate
            );
        }
        Ok(())
    }

    /// Checks that no two tasks share a queue position, and that no task has one that was not assigned yet.
    fn check_positions(&self) -> Result<(), String> {
        let mut orders: Vec<u64> = self.tasks.iter().filter_map(position_order).collect();
        orders.sort_unstable();
        let last = orders.last().copied().unwrap_or(0);
        ensure!(
            last <= self.last_position && self.last_position >> 60 == 0,
            "position {last} of {}",
            self.last_position
        );
        let shared = orders.windows(2).find(|pair| pair[0] == pair[1]);
        shared.map_or(Ok(()), |pair| {
            Err(format!("two tasks have position {}", pair[0]))
        })
    }
}

/// Returns the position that a task has, or gets back.
fn position_order(task: &Task) -> Option<u64> {
    match task.life {
        Life::Queued { position } | Life::Running { position, .. } => Some(position.order),
        Life::Waiting { .. }
        | Life::Delayed { .. }
        | Life::Succeeded { .. }
        | Life::Failed { .. }
        | Life::Cancelled { .. }
        | Life::Expired { .. } => None,
    }
}

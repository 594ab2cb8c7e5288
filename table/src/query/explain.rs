//! Explanation why a task does not run: all reasons that hold it back now, by the same rules by which it would be
//! started.

use std::sync::Arc;

use crate::command::DependencyCondition;
use crate::index::ready_queue::Rank;
use crate::records::task::{Class, Life, QueuePosition, Task};
use crate::records::worker::Worker;
use crate::table::Table;
use crate::types::ids::{JobId, TaskId, WorkerId};
use crate::types::state::TaskState;

/// Maximum number of dependencies that an explanation names.
const DEPENDENCIES_SHOWN_MAX: usize = 10;

/// Reason why a task does not run. If there are several, each must end before the task can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The task is terminal.
    Finished {
        /// Its state.
        state: TaskState,
    },
    /// The task is running.
    Running {
        /// The worker that runs it.
        worker: WorkerId,
    },
    /// Dependencies of the task have not ended yet.
    Dependencies {
        /// The first of these dependencies, each with the condition on its end.
        tasks: Vec<(TaskId, DependencyCondition)>,
        /// The number of these dependencies.
        count: u32,
    },
    /// Jobs that the task's job comes after have not ended yet.
    Jobs {
        /// These jobs, each with the condition on its end.
        jobs: Vec<(JobId, DependencyCondition)>,
    },
    /// The task waits for a time.
    Delayed {
        /// Time at which it becomes ready, in Unix ms.
        until_ms: u64,
        /// The number of failed attempts. Above 0, the delay is a back-off.
        failures: u32,
    },
    /// The queue of the task is paused.
    QueuePaused,
    /// The queue of the task is at its bound of running tasks.
    QueueAtMaxRunning {
        /// The bound.
        max_running: u32,
    },
    /// The queue of the task is at its rate limit.
    RateLimited {
        /// Time at which the next task may start, in Unix ms.
        until_ms: u64,
    },
    /// The concurrency key of the task is at its limit, running tasks and those ahead of it counted.
    ConcurrencyKey {
        /// The key.
        key: Arc<str>,
        /// The limit of the key.
        limit: u32,
        /// The number of its running tasks.
        running: u32,
        /// The number of its ready tasks with a better rank.
        ahead: u64,
    },
    /// No present worker takes the task, even when idle.
    NoWorker(Lack),
    /// Workers take the task, and none has room.
    WorkersBusy {
        /// The number of workers that take it.
        workers: u64,
    },
    /// Nothing holds the task back: workers that take it have room, and it waits to be leased.
    Ready {
        /// The number of workers that have room.
        workers: u64,
    },
}

/// Capability that present workers lack for a task: the first in this order that none of them has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// No worker takes any task.
    Anyone,
    /// No worker takes from its queue.
    Queue,
    /// No worker of its queue takes its kind.
    Kind,
    /// No worker of its queue and kind has its labels.
    Labels {
        /// Labels that none of these workers has; empty if each has some of them.
        missing: Vec<(String, String)>,
        /// The worker that has most of them.
        closest: ClosestWorker,
    },
    /// No worker of its queue, kind and labels has the resources, even when idle.
    Resources {
        /// Resources of which none of these workers has enough: name, amount wanted, and the most that one has. Empty if
        /// each has enough of some of them.
        missing: Vec<(String, u64, u64)>,
        /// The worker that has enough of most of them.
        closest: ClosestWorker,
    },
}

/// The worker that comes closest to what a task requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosestWorker {
    /// Its id.
    pub worker: WorkerId,
    /// Names of the labels or resources that it lacks.
    pub lacks: Vec<String>,
}

impl Table {
    /// Returns why a task does not run at this time; `None` if there is no such task.
    pub fn explain(&self, id: TaskId, now_ms: u64) -> Option<Vec<Reason>> {
        let task = self.tasks.get(id)?;
        let now_ms = now_ms.max(self.now_ms);
        Some(match task.life {
            Life::Waiting { on, .. } => {
                let dependencies = (!task.after().is_empty()).then(|| self.dependencies(task, on));
                dependencies
                    .into_iter()
                    .chain(self.jobs_before(task))
                    .collect()
            }
            Life::Delayed { until_ms } => vec![Reason::Delayed {
                until_ms,
                failures: task.failures,
            }],
            Life::Queued { position } => self.queued_reasons(task, position, now_ms),
            Life::Running { worker, .. } => vec![Reason::Running { worker }],
            Life::Succeeded { .. }
            | Life::Failed { .. }
            | Life::Cancelled { .. }
            | Life::Expired { .. } => vec![Reason::Finished {
                state: task.state(),
            }],
        })
    }

    fn jobs_before(&self, task: &Task) -> Option<Reason> {
        let job = self.jobs.get(task.job).filter(|job| job.waits_for_jobs())?;
        let pending = job.after_jobs.iter().filter(|after| after.met.is_none());
        let jobs = pending.map(|after| (after.job, after.when)).collect();
        Some(Reason::Jobs { jobs })
    }

    fn dependencies(&self, task: &Task, count: u32) -> Reason {
        let missing = |(first, _): &(TaskId, DependencyCondition)| {
            let state = self.tasks.get(*first).map(Task::state);
            !state.is_some_and(TaskState::is_terminal)
        };
        let tasks = task.dependencies().filter(missing);
        Reason::Dependencies {
            tasks: tasks.take(DEPENDENCIES_SHOWN_MAX).collect(),
            count,
        }
    }

    fn queued_reasons(&self, task: &Task, position: QueuePosition, now_ms: u64) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if let Some(queue) = self.index.queue(task.queue()) {
            let settings = &queue.record.settings;
            if settings.paused {
                reasons.push(Reason::QueuePaused);
            }
            if let Some(max_running) = settings.max_running
                && queue.remaining_capacity() == 0
            {
                reasons.push(Reason::QueueAtMaxRunning { max_running });
            }
            if queue.record.starts_allowed(now_ms) == 0 {
                let until_ms = queue.record.next_start_ns().div_ceil(1_000_000);
                reasons.push(Reason::RateLimited { until_ms });
            }
        }
        reasons.extend(self.concurrency_reason(task, position));
        let workers = self.workers_for(&task.spec.class);
        match workers {
            Reason::NoWorker(_) | Reason::WorkersBusy { .. } => reasons.push(workers),
            _ if reasons.is_empty() => reasons.push(workers),
            _ => {}
        }
        reasons
    }

    fn concurrency_reason(&self, task: &Task, position: QueuePosition) -> Option<Reason> {
        let key = &task.concurrency()?.key;
        let tasks = self.index.concurrency_keys.get(key)?;
        let rank = Rank::of(task.priority(), position);
        if tasks.is_eligible(rank) {
            return None;
        }
        Some(Reason::ConcurrencyKey {
            key: key.clone(),
            limit: tasks.limit(),
            running: tasks.running,
            ahead: tasks.ready_before(rank) as u64,
        })
    }

    fn workers_for(&self, class: &Class) -> Reason {
        let live = |worker: &&Worker| worker.usable_slots() > 0;
        let (mut takers, mut free) = (0, 0);
        for worker in self.workers.iter().filter(live) {
            if !worker.profile.takes(class) {
                continue;
            }
            takers += 1;
            let usage = self.index.worker_groups.usage().get(&worker.id);
            let has_capacity = usage.is_some_and(|usage| {
                let resources = &class.requires.resources;
                usage.has_free_slot() && worker.profile.has_capacity(&usage.used, resources)
            });
            free += u64::from(has_capacity);
        }
        match (takers, free) {
            (0, _) => Reason::NoWorker(lack(self.workers.iter().filter(live).collect(), class)),
            (workers, 0) => Reason::WorkersBusy { workers },
            (_, workers) => Reason::Ready { workers },
        }
    }
}

/// Returns what these workers, none of which takes the class, lack for it.
fn lack(mut workers: Vec<&Worker>, class: &Class) -> Lack {
    if workers.is_empty() {
        return Lack::Anyone;
    }
    workers.retain(|worker| worker.profile.queues.contains(&*class.queue));
    if workers.is_empty() {
        return Lack::Queue;
    }
    workers.retain(|worker| worker.profile.kinds.contains(&*class.kind));
    if workers.is_empty() {
        return Lack::Kind;
    }
    let labels = &class.requires.labels;
    let has_label = |worker: &Worker, name: &String, value: &String| {
        worker.profile.labels.get(name) == Some(value)
    };
    let lacked_labels = |worker: &Worker| -> Vec<String> {
        let lacked = labels
            .iter()
            .filter(|(name, value)| !has_label(worker, name, value));
        lacked.map(|(name, _)| name.clone()).collect()
    };
    if workers
        .iter()
        .all(|worker| !lacked_labels(worker).is_empty())
    {
        let missing = labels
            .iter()
            .filter(|(name, value)| !workers.iter().any(|worker| has_label(worker, name, value)));
        let missing = missing.map(|(name, value)| (name.clone(), value.clone()));
        let missing = missing.collect();
        return match closest(&workers, lacked_labels) {
            Some(closest) => Lack::Labels { missing, closest },
            None => Lack::Kind,
        };
    }
    workers.retain(|worker| lacked_labels(worker).is_empty());
    let resources = &class.requires.resources;
    let amount =
        |worker: &Worker, name: &String| worker.profile.resources.get(name).copied().unwrap_or(0);
    let lacked_resources = |worker: &Worker| -> Vec<String> {
        let lacked = resources
            .iter()
            .filter(|(name, wanted)| amount(worker, name) < **wanted);
        lacked.map(|(name, _)| name.clone()).collect()
    };
    let missing = resources.iter().filter_map(|(name, wanted)| {
        let most = workers.iter().map(|worker| amount(worker, name)).max()?;
        (most < *wanted).then(|| (name.clone(), *wanted, most))
    });
    let missing = missing.collect();
    match closest(&workers, lacked_resources) {
        Some(closest) => Lack::Resources { missing, closest },
        None => Lack::Kind,
    }
}

/// Returns the worker that lacks the least, the oldest of several.
fn closest(workers: &[&Worker], lacked: impl Fn(&Worker) -> Vec<String>) -> Option<ClosestWorker> {
    let candidates = workers.iter().map(|worker| ClosestWorker {
        worker: worker.id,
        lacks: lacked(worker),
    });
    candidates.min_by_key(|candidate| candidate.lacks.len())
}

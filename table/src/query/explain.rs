//! Explanation why a task does not run: all reasons that hold it back now, by the same rules by which it would be
//! started.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::index::ready_queue::Rank;
use crate::records::task::{Class, Life, QueuePosition, Task};
use crate::records::worker::Worker;
use crate::table::Table;
use crate::types::ids::{TaskId, WorkerId};
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
    /// Dependencies of the task have not succeeded yet.
    Dependencies {
        /// The first of these dependencies.
        tasks: Vec<TaskId>,
        /// The number of these dependencies.
        count: u32,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// No worker takes any task.
    Anyone,
    /// No worker takes from its queue.
    Queue,
    /// No worker of its queue takes its kind.
    Kind,
    /// No worker of its queue and kind has its labels.
    Labels,
    /// No worker of its queue, kind and labels has the resources, even when idle.
    Resources,
}

impl Table {
    /// Returns why a task does not run at this time; `None` if there is no such task.
    pub fn explain(&self, id: TaskId, now_ms: u64) -> Option<Vec<Reason>> {
        let task = self.tasks.get(id)?;
        let now_ms = now_ms.max(self.now_ms);
        Some(match task.life {
            Life::Waiting { on, .. } => vec![self.dependencies(task, on)],
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

    fn dependencies(&self, task: &Task, count: u32) -> Reason {
        let missing = |first: &&TaskId| {
            let state = self.tasks.get(**first).map(Task::state);
            state != Some(TaskState::Succeeded)
        };
        let tasks = task
            .after()
            .iter()
            .filter(missing)
            .take(DEPENDENCIES_SHOWN_MAX);
        Reason::Dependencies {
            tasks: tasks.copied().collect(),
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
        let mut lack = Lack::Anyone;
        let (mut takers, mut free) = (0, 0);
        for worker in self.workers.iter().filter(live) {
            lack = narrower_lack(lack, worker, class);
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
            (0, _) => Reason::NoWorker(lack),
            (workers, 0) => Reason::WorkersBusy { workers },
            (_, workers) => Reason::Ready { workers },
        }
    }
}

/// Returns the lack that remains when this worker is considered too.
fn narrower_lack(lack: Lack, worker: &Worker, class: &Class) -> Lack {
    let profile = &worker.profile;
    let labelled = |(name, value)| profile.labels.get(name) == Some(value);
    let found = if !profile.queues.contains(&*class.queue) {
        Lack::Queue
    } else if !profile.kinds.contains(&*class.kind) {
        Lack::Kind
    } else if !class.requires.labels.iter().all(labelled) {
        Lack::Labels
    } else if !profile.has_capacity(&BTreeMap::new(), &class.requires.resources) {
        Lack::Resources
    } else {
        return lack;
    };
    let step = |lack: Lack| match lack {
        Lack::Anyone => 0,
        Lack::Queue => 1,
        Lack::Kind => 2,
        Lack::Labels => 3,
        Lack::Resources => 4,
    };
    if step(found) > step(lack) {
        found
    } else {
        lack
    }
}

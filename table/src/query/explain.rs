//! Explanation why a task does not run: everything that holds it back now, by the same rules by which it would be started.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::index::ready_queue::Rank;
use crate::records::task::{Class, Life, QueuePosition, Task};
use crate::records::worker::Worker;
use crate::table::Table;
use crate::types::ids::{TaskId, WorkerId};
use crate::types::state::TaskState;

/// Dependencies that are named.
const DEPENDENCIES_SHOWN_MAX: usize = 10;

/// One reason. When there are several, each must go before the task can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is terminal.
    Finished {
        /// How it ended.
        state: TaskState,
    },
    /// It runs.
    Running {
        /// On this worker.
        worker: WorkerId,
    },
    /// It comes after tasks that have not succeeded yet.
    Dependencies {
        /// The first of them.
        tasks: Vec<TaskId>,
        /// How many there are.
        count: u32,
    },
    /// Its time has not come.
    Delayed {
        /// When it comes, in Unix ms.
        until_ms: u64,
        /// Attempts that failed before: with any it is a back-off.
        failures: u32,
    },
    /// Its queue is paused.
    QueuePaused,
    /// As many tasks of its queue run as may.
    QueueAtMaxRunning {
        /// How many that is.
        max_running: u32,
    },
    /// As many tasks of its queue have started as may in that time.
    RateLimited {
        /// When the next one may, in Unix ms.
        until_ms: u64,
    },
    /// As many tasks with its concurrency key run, or come before it, as may run.
    ConcurrencyKey {
        /// The key.
        key: Arc<str>,
        /// How many may run.
        limit: u32,
        /// How many do.
        running: u32,
        /// How many ready ones come first.
        ahead: u64,
    },
    /// No present worker takes it, whatever else it had to do.
    NoWorker(Lack),
    /// Workers take it, and none has room.
    WorkersBusy {
        /// How many take it.
        workers: u64,
    },
    /// Nothing holds it back: workers that take it have room, and it is among those to be given out.
    Ready {
        /// How many have room.
        workers: u64,
    },
}

/// What present workers lack for a task, the first in this order that none of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// There is no worker that takes anything.
    Anyone,
    /// None takes from its queue.
    Queue,
    /// None of those takes its kind.
    Kind,
    /// None of those has its labels.
    Labels,
    /// None of those has so much of its resources in all.
    Resources,
}

impl Table {
    /// Why a task does not run at this time.
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

/// What is lacking when there is this worker too.
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

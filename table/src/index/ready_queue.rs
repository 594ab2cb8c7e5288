//! Index of one queue: counts of its tasks, and ready queues in start order.
//!
//! Each [`Class`] and priority has a ready queue of its own. So tasks that no present worker can take delay no others,
//! and the scheduler looks at the heads instead of searching.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

use crate::records::job::Counts;
use crate::records::queue::{AGEING_MS, Queue};
use crate::records::task::{Class, QueuePosition, Task};
use crate::types::ids::{JobId, TaskId};
use crate::types::state::TaskState;

/// Highest priority.
const PRIORITY_MAX: u8 = 9;

/// Tasks of one class and priority in start order.
pub(crate) type ReadyQueue = BTreeMap<Rank, TaskId>;

/// Key of a ready queue: the class and the priority of its tasks.
pub(crate) type ReadyQueueKey = (Arc<Class>, u8);

/// Index of one queue. Derived from the tasks and the queue's record. See the module.
#[derive(Debug, PartialEq)]
pub(crate) struct QueueIndex {
    /// A copy of its record.
    pub record: Queue,
    /// Its tasks by state.
    pub counts: Counts,
    /// Classes of all tasks of this queue, terminal ones included.
    classes: BTreeMap<Arc<Class>, ClassUse>,
    /// Number of classes with unfinished tasks.
    pub open_classes: u32,
    /// Ready queues of the tasks that their concurrency keys let start; none is empty.
    ready_queues: BTreeMap<ReadyQueueKey, ReadyQueue>,
    /// The first task of each ready queue.
    pub heads: BTreeMap<Rank, ReadyQueueKey>,
    /// Finished jobs that belong to this queue, by when they finished.
    pub finished: BTreeSet<(u64, JobId)>,
}

/// Number of tasks that use a class.
#[derive(Debug, Default, PartialEq)]
struct ClassUse {
    tasks: u64,
    unfinished: u64,
}

/// Rank of a task among the ready ones of its queue. It is the time at which the task became ready, plus [`AGEING_MS`]
/// for each step that its priority is below the highest. At the same time the lower position comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    at_ms: u64,
    order: u64,
}

impl Rank {
    pub fn of(priority: u8, position: QueuePosition) -> Self {
        assert!(priority <= PRIORITY_MAX, "{priority} {position:?}");
        let handicap_ms = u64::from(PRIORITY_MAX - priority) * AGEING_MS;
        Self {
            at_ms: position.since_ms.saturating_add(handicap_ms),
            order: position.order,
        }
    }

    /// Returns when a task of this rank and priority became ready, in Unix ms.
    fn since_ms(self, priority: u8) -> u64 {
        self.at_ms
            .saturating_sub(u64::from(PRIORITY_MAX - priority) * AGEING_MS)
    }
}

impl QueueIndex {
    pub fn new(record: Queue) -> Self {
        Self {
            record,
            counts: Counts::default(),
            classes: BTreeMap::new(),
            open_classes: 0,
            ready_queues: BTreeMap::new(),
            heads: BTreeMap::new(),
            finished: BTreeSet::new(),
        }
    }

    /// Returns the shared copy of a class, if a task of this queue belongs to it.
    pub fn class(&self, class: &Class) -> Option<&Arc<Class>> {
        self.classes.get_key_value(class).map(|(shared, _)| shared)
    }

    /// Returns whether a class has unfinished tasks.
    pub fn is_open(&self, class: &Class) -> bool {
        self.classes
            .get(class)
            .is_some_and(|class| class.unfinished > 0)
    }

    /// Returns whether it has no tasks.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Adds a task to the counts.
    pub fn add(&mut self, task: &Task) {
        let state = task.state();
        self.counts.add(state);
        let used = self.classes.entry(task.spec.class.clone()).or_default();
        used.tasks += 1;
        if !state.is_terminal() {
            used.unfinished += 1;
            self.open_classes += u32::from(used.unfinished == 1);
        }
    }

    /// Removes a task from the counts.
    pub fn remove(&mut self, task: &Task) {
        let state = task.state();
        self.counts.remove(state);
        let class = &task.spec.class;
        let used = self
            .classes
            .get_mut(class)
            .expect("a task's class is indexed");
        used.tasks -= 1;
        if !state.is_terminal() {
            used.unfinished -= 1;
            self.open_classes -= u32::from(used.unfinished == 0);
        }
        if used.tasks == 0 {
            self.classes.remove(class);
        }
    }

    /// Adds a task that may start.
    pub fn insert_ready(&mut self, ready: &ReadyTask) {
        let queue = self.ready_queues.entry(ready.key.clone()).or_default();
        let before = queue.first_key_value().map(|(&rank, _)| rank);
        let shared = queue.insert(ready.rank, ready.task);
        assert_eq!(shared, None, "{} shares its position", ready.task);
        if before.is_none_or(|before| ready.rank < before) {
            if let Some(before) = before {
                self.heads.remove(&before);
            }
            self.heads.insert(ready.rank, ready.key.clone());
        }
    }

    /// Removes a task that has started or may not start any more.
    pub fn remove_ready(&mut self, ready: &ReadyTask) {
        let btree_map::Entry::Occupied(mut queue) = self.ready_queues.entry(ready.key.clone())
        else {
            panic!("{} may start but has no queue", ready.task);
        };
        let removed = queue.get_mut().remove(&ready.rank);
        assert_eq!(removed, Some(ready.task));
        let next = queue.get().first_key_value().map(|(&rank, _)| rank);
        if self.heads.remove(&ready.rank).is_some()
            && let Some(next) = next
        {
            self.heads.insert(next, ready.key.clone());
        }
        if next.is_none() {
            queue.remove();
        }
    }

    /// Returns the ready queue of this key.
    pub fn ready_queue(&self, key: &ReadyQueueKey) -> Option<&ReadyQueue> {
        self.ready_queues.get(key)
    }

    /// Returns when the oldest of the startable tasks became ready, in Unix ms.
    pub fn oldest_ready_ms(&self) -> Option<u64> {
        let mut oldest: Option<u64> = None;
        for (rank, (_, priority)) in &self.heads {
            // From here on even tasks of the lowest priority are younger.
            if oldest.is_some_and(|oldest| rank.since_ms(0) > oldest) {
                break;
            }
            let since_ms = rank.since_ms(*priority);
            oldest = Some(oldest.map_or(since_ms, |oldest| oldest.min(since_ms)));
        }
        oldest
    }

    /// Returns how many more tasks may run at once.
    pub fn remaining_capacity(&self) -> u64 {
        let running = self.counts.of(TaskState::Running);
        let max = self.record.settings.max_running.map_or(u64::MAX, u64::from);
        max.saturating_sub(running)
    }

    /// Returns when its own settings next require forgetting a finished job, in Unix ms; 0 for at once.
    pub fn retention_due_ms(&self) -> Option<u64> {
        let settings = &self.record.settings;
        let &(finished_ms, _) = self.finished.first()?;
        if settings
            .retain_jobs
            .is_some_and(|max| self.finished.len() as u64 > max)
        {
            return Some(0);
        }
        settings
            .retain_ms
            .map(|age_ms| finished_ms.saturating_add(age_ms))
    }
}

/// A ready task with its rank and its ready queue.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReadyTask {
    pub rank: Rank,
    pub key: ReadyQueueKey,
    pub task: TaskId,
}

impl ReadyTask {
    pub fn of(task: &Task, position: QueuePosition) -> Self {
        Self {
            rank: Rank::of(task.priority(), position),
            key: (task.spec.class.clone(), task.priority()),
            task: task.id,
        }
    }
}

//! A queue: its counts, and its ready tasks in the order in which they are to run.
//!
//! Ready tasks are kept by [`Class`]: tasks that no present worker can take stand in classes of their own and are in
//! nobody's way, and the scheduler looks at the head of each class instead of searching a line.

use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;

use crate::ids::TaskId;
use crate::job::Counts;
use crate::task::{Class, Life, Place, Task};

/// The ready tasks of one class, first to run first.
pub(crate) type Line = BTreeMap<Rank, TaskId>;

/// See the module. Derived from the tasks.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct QueueIndex {
    /// Its tasks by state.
    pub counts: Counts,
    /// Every class that a task of this queue belongs to.
    classes: BTreeMap<Arc<Class>, ClassUse>,
    /// Classes with unfinished tasks.
    pub open_classes: u32,
    /// Ready tasks; no line is empty.
    pub ready: BTreeMap<Arc<Class>, Line>,
}

/// How often a class is used.
#[derive(Debug, Default, PartialEq)]
struct ClassUse {
    tasks: u64,
    unfinished: u64,
}

/// Where a task stands among all ready ones: higher priority first, then the older place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(u64);

impl Rank {
    const PRIORITY_SHIFT: u32 = 60;

    pub fn of(priority: u8, place: Place) -> Self {
        assert!(
            priority <= 9 && place.order >> Self::PRIORITY_SHIFT == 0,
            "{priority} {place:?}"
        );
        Self(u64::from(9 - priority) << Self::PRIORITY_SHIFT | place.order)
    }

    /// Before every rank of the next lower priority.
    fn next_priority(self) -> Self {
        Self(((self.0 >> Self::PRIORITY_SHIFT) + 1) << Self::PRIORITY_SHIFT)
    }
}

impl QueueIndex {
    /// The shared copy of a class, if a task of this queue belongs to it.
    pub fn class(&self, class: &Class) -> Option<&Arc<Class>> {
        self.classes.get_key_value(class).map(|(shared, _)| shared)
    }

    /// Whether a class has unfinished tasks.
    pub fn is_open(&self, class: &Class) -> bool {
        self.classes
            .get(class)
            .is_some_and(|class| class.unfinished > 0)
    }

    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Says what that means for the head of the task's class.
    pub fn add(&mut self, task: &Task) -> HeadChange {
        let state = task.state();
        self.counts.add(state);
        let class = &task.spec.class;
        let used = self.classes.entry(class.clone()).or_default();
        used.tasks += 1;
        if !state.is_terminal() {
            used.unfinished += 1;
            self.open_classes += u32::from(used.unfinished == 1);
        }
        let mut change = HeadChange::default();
        if let Life::Queued { place } = task.life {
            let line = self.ready.entry(class.clone()).or_default();
            change.before = head(line);
            let shared = line.insert(Rank::of(task.priority(), place), task.id);
            assert_eq!(shared, None, "{} shares its place {place:?}", task.id);
            change.after = head(line);
        }
        change
    }

    /// As [`QueueIndex::add`].
    pub fn remove(&mut self, task: &Task) -> HeadChange {
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
        let mut change = HeadChange::default();
        if let Life::Queued { place } = task.life {
            let btree_map::Entry::Occupied(mut line) = self.ready.entry(class.clone()) else {
                panic!("{} is queued but its class has no line", task.id);
            };
            change.before = head(line.get());
            let removed = line.get_mut().remove(&Rank::of(task.priority(), place));
            assert_eq!(removed, Some(task.id));
            change.after = head(line.get());
            if line.get().is_empty() {
                line.remove();
            }
        }
        change
    }

    /// The oldest ready task of each class and priority: among them is the oldest of all.
    pub fn oldest(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.ready.values().flat_map(|line| {
            let first = line.first_key_value();
            std::iter::successors(first, |&(rank, _)| {
                line.range(rank.next_priority()..).next()
            })
            .map(|(_, &task)| task)
        })
    }
}

/// The rank of the first task of a class before and after a change.
#[derive(Debug, Default)]
pub(crate) struct HeadChange {
    pub before: Option<Rank>,
    pub after: Option<Rank>,
}

fn head(line: &Line) -> Option<Rank> {
    line.first_key_value().map(|(&rank, _)| rank)
}

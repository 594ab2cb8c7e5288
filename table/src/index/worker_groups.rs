//! Index of workers by profile and load: workers with a free slot, the least loaded first.
//!
//! Workers with the same profile form a *group*. A task that one of them may take, all of them may take. So the
//! scheduler checks a group once and then takes its members in order.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::records::task::Class;
use crate::records::worker::{Profile, Worker};
use crate::types::ids::{TaskId, WorkerId};

/// Load of a worker. The smaller part of its slots in use comes first, then the smaller number of running tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub running: u32,
    pub slots: u32,
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        let part = |a: &Self, b: &Self| u64::from(a.running) * u64::from(b.slots);
        part(self, other)
            .cmp(&part(other, self))
            .then(self.running.cmp(&other.running))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Load {}

/// The members of a group that have a free slot.
pub(crate) type WorkerGroup = BTreeSet<(Load, WorkerId)>;

/// Leases and used resources of a present worker.
#[derive(Debug, PartialEq)]
pub(crate) struct WorkerUsage {
    /// The tasks it runs.
    pub running: BTreeSet<TaskId>,
    /// The amounts of its resources that they use.
    pub used: BTreeMap<String, u64>,
    /// The number of tasks it may run at once.
    slots: u32,
    /// Its profile, which identifies its group.
    profile: Arc<Profile>,
}

impl WorkerUsage {
    /// Returns its load, by which the scheduler orders workers.
    pub fn load(&self) -> Load {
        Load {
            running: self.running.len() as u32,
            slots: self.slots,
        }
    }

    /// Returns whether it may run one more task.
    pub fn has_free_slot(&self) -> bool {
        self.running.len() < self.slots as usize
    }
}

/// All worker groups. Derived from the workers and the running tasks. See the module.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct WorkerGroups {
    /// Groups by profile; none is empty.
    groups: BTreeMap<Arc<Profile>, WorkerGroup>,
    usage_by_worker: BTreeMap<WorkerId, WorkerUsage>,
}

impl WorkerGroups {
    /// Returns all groups with a free slot.
    pub fn iter(&self) -> impl Iterator<Item = (&Profile, &WorkerGroup)> {
        self.groups
            .iter()
            .map(|(profile, group)| (&**profile, group))
    }

    /// Returns the usage of present workers, by worker.
    pub fn usage(&self) -> &BTreeMap<WorkerId, WorkerUsage> {
        &self.usage_by_worker
    }

    /// Adds a present worker.
    pub fn add(&mut self, worker: &Worker) {
        let usage = WorkerUsage {
            running: BTreeSet::new(),
            used: BTreeMap::new(),
            slots: worker.usable_slots(),
            profile: worker.profile.clone(),
        };
        self.insert_member(worker.id, &usage);
        self.usage_by_worker.insert(worker.id, usage);
    }

    /// Updates the slots of a present worker whose state has changed.
    pub fn update_slots(&mut self, worker: &Worker) {
        self.change(worker.id, |usage| usage.slots = worker.usable_slots());
    }

    /// Removes a worker.
    ///
    /// # Panics
    ///
    /// Panics if the worker still holds a lease.
    pub fn remove(&mut self, worker: WorkerId) {
        let usage = self
            .usage_by_worker
            .remove(&worker)
            .expect("a present worker is indexed");
        self.remove_member(worker, &usage);
        assert!(
            usage.running.is_empty(),
            "{worker} still runs {:?}",
            usage.running
        );
    }

    /// Counts the start of an attempt on a worker.
    pub fn begin_attempt(&mut self, worker: WorkerId, task: TaskId, class: &Class) {
        self.change(worker, |usage| {
            usage.running.insert(task);
            for (name, amount) in class.requires.amounts() {
                *usage.used.entry(name.clone()).or_default() += amount;
            }
        });
    }

    /// Counts the end of an attempt on a worker.
    pub fn end_attempt(&mut self, worker: WorkerId, task: TaskId, class: &Class) {
        self.change(worker, |usage| {
            usage.running.remove(&task);
            for (name, amount) in class.requires.amounts() {
                let used = usage.used.get_mut(name).expect("taken when it began");
                *used -= amount;
                if *used == 0 {
                    usage.used.remove(name);
                }
            }
        });
    }

    /// Changes the usage of a worker, and with it its position in its group.
    fn change(&mut self, worker: WorkerId, change: impl FnOnce(&mut WorkerUsage)) {
        let mut usage = self
            .usage_by_worker
            .remove(&worker)
            .expect("a present worker is indexed");
        self.remove_member(worker, &usage);
        change(&mut usage);
        self.insert_member(worker, &usage);
        self.usage_by_worker.insert(worker, usage);
    }

    fn insert_member(&mut self, worker: WorkerId, usage: &WorkerUsage) {
        if !usage.has_free_slot() {
            return;
        }
        let load = usage.load();
        match self.groups.get_mut(&usage.profile) {
            Some(group) => {
                group.insert((load, worker));
            }
            None => {
                let group = WorkerGroup::from([(load, worker)]);
                self.groups.insert(usage.profile.clone(), group);
            }
        }
    }

    fn remove_member(&mut self, worker: WorkerId, usage: &WorkerUsage) {
        if let Some(group) = self.groups.get_mut(&usage.profile) {
            group.remove(&(usage.load(), worker));
            if group.is_empty() {
                self.groups.remove(&usage.profile);
            }
        }
    }
}

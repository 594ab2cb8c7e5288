//! Workers that may take something and have a free slot, the least loaded first.
//!
//! Workers with the same profile form a *crew*: what one of them may take, all of them may, so the scheduler asks once
//! for the crew and then takes its members in order.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::records::task::Class;
use crate::records::worker::{Profile, Worker};
use crate::types::ids::{TaskId, WorkerId};

/// How busy a worker is: the smaller part of its slots in use comes first, then the smaller number.
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

/// The members of a crew that have a free slot.
pub(crate) type Crew = BTreeSet<(Load, WorkerId)>;

/// What a live or draining worker holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Holding {
    /// The tasks it runs.
    pub running: BTreeSet<TaskId>,
    /// What they take of its resources.
    pub used: BTreeMap<String, u64>,
    /// How many it may run at once.
    seats: u32,
    /// Its crew.
    profile: Arc<Profile>,
}

impl Holding {
    /// As the scheduler orders it.
    pub fn load(&self) -> Load {
        Load {
            running: self.running.len() as u32,
            slots: self.seats,
        }
    }

    /// Whether it may run one more.
    pub fn has_seat(&self) -> bool {
        self.running.len() < self.seats as usize
    }
}

/// See the module. Derived from the workers and the running tasks.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Crews {
    /// By profile; none is empty.
    crews: BTreeMap<Arc<Profile>, Crew>,
    holdings: BTreeMap<WorkerId, Holding>,
}

impl Crews {
    /// All crews that have a free slot somewhere.
    pub fn iter(&self) -> impl Iterator<Item = (&Profile, &Crew)> {
        self.crews.iter().map(|(profile, crew)| (&**profile, crew))
    }

    /// What live and draining workers hold, by worker.
    pub fn holdings(&self) -> &BTreeMap<WorkerId, Holding> {
        &self.holdings
    }

    /// A live or draining worker comes.
    pub fn add(&mut self, worker: &Worker) {
        let holding = Holding {
            running: BTreeSet::new(),
            used: BTreeMap::new(),
            seats: worker.seats(),
            profile: worker.profile.clone(),
        };
        self.seat(worker.id, &holding);
        self.holdings.insert(worker.id, holding);
    }

    /// The life of a present worker has changed.
    pub fn reseat(&mut self, worker: &Worker) {
        self.change(worker.id, |holding| holding.seats = worker.seats());
    }

    /// A worker goes. It must hold nothing any more.
    pub fn remove(&mut self, worker: WorkerId) {
        let holding = self
            .holdings
            .remove(&worker)
            .expect("a present worker is indexed");
        self.unseat(worker, &holding);
        assert!(
            holding.running.is_empty(),
            "{worker} still runs {:?}",
            holding.running
        );
    }

    /// A worker begins an attempt.
    pub fn begin(&mut self, worker: WorkerId, task: TaskId, class: &Class) {
        self.change(worker, |holding| {
            holding.running.insert(task);
            for (name, amount) in class.requires.amounts() {
                *holding.used.entry(name.clone()).or_default() += amount;
            }
        });
    }

    /// A worker's attempt ends.
    pub fn end(&mut self, worker: WorkerId, task: TaskId, class: &Class) {
        self.change(worker, |holding| {
            holding.running.remove(&task);
            for (name, amount) in class.requires.amounts() {
                let used = holding.used.get_mut(name).expect("taken when it began");
                *used -= amount;
                if *used == 0 {
                    holding.used.remove(name);
                }
            }
        });
    }

    /// Changes what a worker holds, and with it its place in its crew.
    fn change(&mut self, worker: WorkerId, change: impl FnOnce(&mut Holding)) {
        let mut holding = self
            .holdings
            .remove(&worker)
            .expect("a present worker is indexed");
        self.unseat(worker, &holding);
        change(&mut holding);
        self.seat(worker, &holding);
        self.holdings.insert(worker, holding);
    }

    fn seat(&mut self, worker: WorkerId, holding: &Holding) {
        if !holding.has_seat() {
            return;
        }
        let load = holding.load();
        match self.crews.get_mut(&holding.profile) {
            Some(crew) => {
                crew.insert((load, worker));
            }
            None => {
                let crew = Crew::from([(load, worker)]);
                self.crews.insert(holding.profile.clone(), crew);
            }
        }
    }

    fn unseat(&mut self, worker: WorkerId, holding: &Holding) {
        if let Some(crew) = self.crews.get_mut(&holding.profile) {
            crew.remove(&(holding.load(), worker));
            if crew.is_empty() {
                self.crews.remove(&holding.profile);
            }
        }
    }
}

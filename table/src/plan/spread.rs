//! Spreads tasks over workers: each task goes to the worker that is least loaded.
//!
//! Workers with the same profile form a *crew*, ready tasks of the same class a *lane*. Which lanes a crew can serve is
//! found once per plan. Then the lane with the first task of all is served again and again, by the least loaded of the
//! workers of its *pool*: all workers that could serve it. Lanes with the same crews and the same needs share a pool.
//! Within one plan workers only fill up, so a worker that has no room for a pool's needs leaves that pool for good, and a lane
//! whose pool is empty is done.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, btree_map};
use std::sync::Arc;

use super::Demand;
use crate::command::Grant;
use crate::ids::{TaskId, WorkerId};
use crate::queue::Rank;
use crate::table::Table;
use crate::task::Class;
use crate::worker::{Profile, WorkerLife};

/// A plan in the making; iterating makes it.
pub(super) struct Spread<'a> {
    hands: Vec<Hand<'a>>,
    lanes: Vec<Lane<'a>>,
    pools: Vec<Pool<'a>>,
    /// The head of every lane that is not done.
    heads: BinaryHeap<Reverse<(Rank, usize)>>,
}

/// A worker that asks.
struct Hand<'a> {
    worker: WorkerId,
    profile: &'a Profile,
    load: Load,
    wanted: u32,
    used: BTreeMap<&'a str, u64>,
}

/// How busy a worker is; less comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    running: u32,
    slots: u32,
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

/// The ready tasks of a class.
struct Lane<'a> {
    tasks: btree_map::Iter<'a, Rank, TaskId>,
    next: TaskId,
    pool: usize,
}

/// Workers that could serve a lane, least loaded first. A worker's load here may lag behind; it is looked at again when
/// it comes to the top.
struct Pool<'a> {
    needs: &'a BTreeMap<String, u64>,
    hands: BinaryHeap<Reverse<(Load, WorkerId, usize)>>,
}

impl<'a> Spread<'a> {
    pub fn new(table: &'a Table, demands: &[Demand]) -> Self {
        let (hands, crews) = crews(table, demands);
        let mut plan = Self {
            hands,
            lanes: Vec::new(),
            pools: Vec::new(),
            heads: BinaryHeap::new(),
        };
        let mut pools: BTreeMap<(Vec<usize>, &BTreeMap<String, u64>), usize> = BTreeMap::new();
        for (class, (line, served_by)) in lanes(table, &crews) {
            let mut tasks = line.iter();
            let Some((&rank, &next)) = tasks.next() else {
                continue;
            };
            let needs = &class.requires.resources;
            let pool = *pools
                .entry((served_by, needs))
                .or_insert_with_key(|(served_by, needs)| {
                    let members = served_by.iter().flat_map(|&crew| crews[crew].1.iter());
                    let hands = members
                        .map(|&at| Reverse((plan.hands[at].load, plan.hands[at].worker, at)));
                    plan.pools.push(Pool {
                        needs,
                        hands: hands.collect(),
                    });
                    plan.pools.len() - 1
                });
            plan.heads.push(Reverse((rank, plan.lanes.len())));
            plan.lanes.push(Lane { tasks, next, pool });
        }
        plan
    }
}

impl Iterator for Spread<'_> {
    type Item = Grant;

    fn next(&mut self) -> Option<Grant> {
        loop {
            let Reverse((_, at)) = self.heads.pop()?;
            let lane = &mut self.lanes[at];
            let Some(worker) = self.pools[lane.pool].serve(&mut self.hands) else {
                continue;
            };
            let task = lane.next;
            if let Some((&rank, &next)) = lane.tasks.next() {
                lane.next = next;
                self.heads.push(Reverse((rank, at)));
            }
            return Some(Grant { task, worker });
        }
    }
}

impl<'a> Pool<'a> {
    /// The least loaded worker that has room; it is counted as taken.
    fn serve(&mut self, hands: &mut [Hand<'a>]) -> Option<WorkerId> {
        while let Some(Reverse((load, worker, at))) = self.hands.pop() {
            let hand = &mut hands[at];
            if !hand.has_room(self.needs) {
                continue;
            }
            if load == hand.load {
                hand.take(self.needs);
                self.hands.push(Reverse((hand.load, worker, at)));
                return Some(worker);
            }
            self.hands.push(Reverse((hand.load, worker, at)));
        }
        None
    }
}

impl<'a> Hand<'a> {
    fn has_room(&self, needs: &BTreeMap<String, u64>) -> bool {
        let fits = |(name, &amount): (&String, &u64)| {
            let total = self.profile.resources.get(name).copied().unwrap_or(0);
            let used = self.used.get(name.as_str()).copied().unwrap_or(0);
            amount <= total.saturating_sub(used)
        };
        self.wanted > 0 && needs.iter().all(fits)
    }

    fn take(&mut self, needs: &'a BTreeMap<String, u64>) {
        self.wanted -= 1;
        self.load.running += 1;
        for (name, amount) in needs {
            *self.used.entry(name).or_default() += amount;
        }
    }
}

/// A profile and the places of its workers among the hands.
type Crew<'a> = (&'a Profile, Vec<usize>);

/// The live workers among those that ask and have free slots, each once, and their crews.
fn crews<'a>(table: &'a Table, demands: &[Demand]) -> (Vec<Hand<'a>>, Vec<Crew<'a>>) {
    let mut wanted: BTreeMap<WorkerId, u32> = BTreeMap::new();
    for demand in demands {
        let sum = wanted.entry(demand.worker).or_default();
        *sum = sum.saturating_add(demand.wanted);
    }
    let mut hands = Vec::with_capacity(wanted.len());
    let mut crews: Vec<Crew<'a>> = Vec::new();
    // Profiles are interned: the same one is the same place in memory.
    let mut known: BTreeMap<*const Profile, usize> = BTreeMap::new();
    for (id, wanted) in wanted {
        let Some(worker) = table
            .workers
            .get(id)
            .filter(|worker| worker.life == WorkerLife::Live)
        else {
            continue;
        };
        let Some(load) = table.index.loads.get(&id) else {
            continue;
        };
        let running = load.running.len() as u32;
        let wanted = wanted.min(worker.slots.saturating_sub(running));
        if wanted == 0 {
            continue;
        }
        let profile = &*worker.profile;
        let crew = *known
            .entry(Arc::as_ptr(&worker.profile))
            .or_insert_with(|| {
                crews.push((profile, Vec::new()));
                crews.len() - 1
            });
        crews[crew].1.push(hands.len());
        hands.push(Hand {
            worker: id,
            profile,
            load: Load {
                running,
                slots: worker.slots,
            },
            wanted,
            used: load
                .used
                .iter()
                .map(|(name, &amount)| (name.as_str(), amount))
                .collect(),
        });
    }
    (hands, crews)
}

/// Every class with ready tasks that some crew takes, with its line and the places of those crews.
fn lanes<'a>(
    table: &'a Table,
    crews: &[Crew<'a>],
) -> BTreeMap<&'a Class, (&'a BTreeMap<Rank, TaskId>, Vec<usize>)> {
    let mut lanes: BTreeMap<&Class, (&BTreeMap<Rank, TaskId>, Vec<usize>)> = BTreeMap::new();
    for (at, (profile, _)) in crews.iter().enumerate() {
        let queues = profile
            .queues
            .iter()
            .filter_map(|name| table.index.queues.get(name.as_str()));
        for (class, line) in queues.flat_map(|queue| queue.ready.iter()) {
            if profile.takes(class) {
                lanes
                    .entry(class)
                    .or_insert_with(|| (line, Vec::new()))
                    .1
                    .push(at);
            }
        }
    }
    lanes
}

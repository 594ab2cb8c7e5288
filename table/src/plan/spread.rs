//! Spreads tasks over workers: each task goes to the worker that is least loaded.
//!
//! Everything here is lazy, so that a plan of few grants looks at little. Classes come up in the order of their first
//! tasks; one that a present crew takes becomes a *lane*, and its tasks then compete with the other lanes' by rank. A lane is
//! served by its *pool*, the crews that take its class; lanes with the same crews and the same needs share a pool. A
//! pool draws members from its crews, the least loaded first, and puts back those it has served, now more loaded.
//!
//! Within one plan workers only fill up. So a worker that has no room for a pool's needs leaves that pool for good, a lane
//! whose pool is empty is done, and when no crew has anyone left who asks, so is the plan.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, btree_map, btree_set};
use std::sync::Arc;

use crate::command::Grant;
use crate::crew::Load;
use crate::ids::{TaskId, WorkerId};
use crate::queue::Rank;
use crate::table::Table;
use crate::task::Class;
use crate::worker::Profile;

/// A plan in the making; iterating makes it.
pub(super) struct Spread<'a> {
    table: &'a Table,
    wanted: &'a dyn Fn(WorkerId) -> u32,
    crews: Vec<Scouted<'a>>,
    hands: BTreeMap<WorkerId, Hand<'a>>,
    /// Classes that have not come up yet.
    heads: std::iter::Peekable<btree_map::Iter<'a, Rank, Arc<Class>>>,
    lanes: Vec<Lane<'a>>,
    /// The first task of every lane that is not done.
    fronts: BinaryHeap<Reverse<(Rank, usize)>>,
    pools: Vec<Pool<'a>>,
    pools_by: BTreeMap<(Vec<usize>, &'a BTreeMap<String, u64>), usize>,
}

/// A crew, and how far it is known that nobody in it asks any more.
struct Scouted<'a> {
    profile: &'a Profile,
    members: btree_set::Iter<'a, (Load, WorkerId)>,
    scout: std::iter::Peekable<btree_set::Iter<'a, (Load, WorkerId)>>,
}

/// A worker that asked and was looked at.
struct Hand<'a> {
    profile: &'a Profile,
    load: Load,
    wanted: u32,
    used: BTreeMap<&'a str, u64>,
}

/// The ready tasks of a class that a crew takes.
struct Lane<'a> {
    tasks: btree_map::Iter<'a, Rank, TaskId>,
    next: TaskId,
    pool: usize,
}

/// Workers that could serve a lane.
struct Pool<'a> {
    needs: &'a BTreeMap<String, u64>,
    crews: Vec<(usize, btree_set::Iter<'a, (Load, WorkerId)>)>,
    /// Least loaded first: the next member of each crew (with its place in `crews`), and those served before, whose
    /// loads may lag behind.
    queue: BinaryHeap<Reverse<(Load, WorkerId, Option<usize>)>>,
}

impl<'a> Spread<'a> {
    pub fn new(table: &'a Table, wanted: &'a dyn Fn(WorkerId) -> u32) -> Self {
        let crews = table.index.crews.iter();
        Self {
            table,
            wanted,
            crews: crews
                .map(|(profile, crew)| Scouted {
                    profile,
                    members: crew.iter(),
                    scout: crew.iter().peekable(),
                })
                .collect(),
            hands: BTreeMap::new(),
            heads: table.index.heads.iter().peekable(),
            lanes: Vec::new(),
            fronts: BinaryHeap::new(),
            pools: Vec::new(),
            pools_by: BTreeMap::new(),
        }
    }

    /// Makes lanes of the classes that come up before all tasks in lanes. False when nobody asks any more.
    fn open_lanes(&mut self) -> bool {
        while let Some(&(&rank, class)) = self.heads.peek() {
            if self
                .fronts
                .peek()
                .is_some_and(|Reverse((front, _))| *front < rank)
            {
                return true;
            }
            let asking: Vec<usize> = (0..self.crews.len())
                .filter(|&crew| self.asks(crew))
                .collect();
            if asking.is_empty() {
                return false;
            }
            self.heads.next();
            let takers: Vec<usize> = asking
                .into_iter()
                .filter(|&crew| self.crews[crew].profile.takes(class))
                .collect();
            if !takers.is_empty() {
                self.open_lane(rank, class, takers);
            }
        }
        true
    }

    /// Whether anyone in this crew still asks.
    fn asks(&mut self, crew: usize) -> bool {
        while let Some((_, worker)) = self.crews[crew].scout.peek() {
            let left = self
                .hands
                .get(worker)
                .map_or_else(|| (self.wanted)(*worker), |hand| hand.wanted);
            if left > 0 {
                return true;
            }
            self.crews[crew].scout.next();
        }
        false
    }

    fn open_lane(&mut self, rank: Rank, class: &'a Class, takers: Vec<usize>) {
        let line = self
            .table
            .index
            .queues
            .get(&class.queue)
            .and_then(|queue| queue.ready.get(class));
        let mut tasks = line.expect("a class that has a head has a line").iter();
        let (_, &next) = tasks.next().expect("no line is empty");
        let needs = &class.requires.resources;
        let pool = match self.pools_by.entry((takers, needs)) {
            btree_map::Entry::Occupied(known) => *known.get(),
            btree_map::Entry::Vacant(unknown) => {
                let crews = unknown
                    .key()
                    .0
                    .iter()
                    .map(|&crew| (crew, self.crews[crew].members.clone()));
                let mut pool = Pool {
                    needs,
                    crews: crews.collect(),
                    queue: BinaryHeap::new(),
                };
                (0..pool.crews.len()).for_each(|at| pool.draw(at));
                self.pools.push(pool);
                *unknown.insert(self.pools.len() - 1)
            }
        };
        self.fronts.push(Reverse((rank, self.lanes.len())));
        self.lanes.push(Lane { tasks, next, pool });
    }

    /// The least loaded worker of a pool that asks and has room; it is counted as taken.
    fn serve(&mut self, pool: usize) -> Option<WorkerId> {
        let pool = &mut self.pools[pool];
        while let Some(Reverse((load, worker, drawn))) = pool.queue.pop() {
            if let Some(at) = drawn {
                pool.draw(at);
            }
            let hand = match self.hands.entry(worker) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(unknown) => {
                    let wanted = (self.wanted)(worker);
                    let Some(at) = drawn.filter(|_| wanted > 0) else {
                        continue;
                    };
                    let profile = self.crews[pool.crews[at].0].profile;
                    unknown.insert(Hand::new(self.table, worker, profile, load, wanted))
                }
            };
            if !hand.has_room(pool.needs) {
                continue;
            }
            if load == hand.load {
                hand.take(pool.needs);
                pool.queue.push(Reverse((hand.load, worker, None)));
                return Some(worker);
            }
            // Another pool has served it since.
            pool.queue.push(Reverse((hand.load, worker, None)));
        }
        None
    }
}

impl Iterator for Spread<'_> {
    type Item = Grant;

    fn next(&mut self) -> Option<Grant> {
        while self.open_lanes() {
            let Reverse((_, at)) = self.fronts.pop()?;
            let pool = self.lanes[at].pool;
            let Some(worker) = self.serve(pool) else {
                continue;
            };
            let lane = &mut self.lanes[at];
            let task = lane.next;
            if let Some((&rank, &next)) = lane.tasks.next() {
                lane.next = next;
                self.fronts.push(Reverse((rank, at)));
            }
            return Some(Grant { task, worker });
        }
        None
    }
}

impl Pool<'_> {
    /// Lets the next member of a crew in.
    fn draw(&mut self, at: usize) {
        if let Some(&(load, worker)) = self.crews[at].1.next() {
            self.queue.push(Reverse((load, worker, Some(at))));
        }
    }
}

impl<'a> Hand<'a> {
    fn new(
        table: &'a Table,
        worker: WorkerId,
        profile: &'a Profile,
        load: Load,
        wanted: u32,
    ) -> Self {
        let holding = table.index.crews.holdings().get(&worker);
        let used = holding.into_iter().flat_map(|holding| &holding.used);
        Self {
            profile,
            load,
            wanted: wanted.min(load.slots - load.running),
            used: used
                .map(|(name, &amount)| (name.as_str(), amount))
                .collect(),
        }
    }

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

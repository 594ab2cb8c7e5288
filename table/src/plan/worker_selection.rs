//! Worker selection: candidates for a task, by what they may take and how loaded they are.
//!
//! All data is computed lazily, so that a plan of few grants looks at few workers. A *pool* is the set of worker groups
//! that take a class of tasks. Ready queues with the same groups, needs and placement share a pool. A pool draws
//! members from its groups, best first, and requeues those it has assigned, now more loaded.
//!
//! With placement `Spread`, a worker that other pools have assigned since ranks lower than its entry says. The pool
//! notices that when the entry is popped. With `Pack` the worker ranks higher, so each such pool first catches up on
//! the assignments.
//!
//! Within one plan, workers only fill up. So a worker without capacity for a pool's needs leaves that pool for good.
//! When no group has a member with demand left, the plan is complete.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, btree_map, btree_set};

use crate::index::worker_groups::Load;
use crate::records::task::Class;
use crate::records::worker::Profile;
use crate::table::Table;
use crate::types::ids::WorkerId;
use crate::types::queue_options::Placement;

/// Demand of a worker, which is not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// The number of tasks it asks for.
    pub wanted: u32,
    /// Whether its machine is overloaded: other workers are preferred.
    pub overloaded: bool,
}

/// Selects workers for tasks within one plan.
pub(super) struct WorkerSelector<'a> {
    table: &'a Table,
    demand: &'a dyn Fn(WorkerId) -> Demand,
    groups: Vec<GroupCursor<'a>>,
    candidates: BTreeMap<WorkerId, Candidate<'a>>,
    /// The assigned workers in order, each with its group.
    assigned: Vec<(usize, WorkerId)>,
    pools: Vec<Pool<'a>>,
    pools_by: BTreeMap<PoolKey<'a>, usize>,
}

/// Key of a pool: its groups, the needs of its tasks, and their placement.
type PoolKey<'a> = (Vec<usize>, &'a BTreeMap<String, u64>, Placement);

/// A worker group, with a cursor past the members that are known to have no demand left.
struct GroupCursor<'a> {
    profile: &'a Profile,
    members: btree_set::Iter<'a, (Load, WorkerId)>,
    demand_cursor: std::iter::Peekable<btree_set::Iter<'a, (Load, WorkerId)>>,
}

/// A worker with demand that a pool has considered.
struct Candidate<'a> {
    group: usize,
    profile: &'a Profile,
    load: Load,
    wanted: u32,
    overloaded: bool,
    used: BTreeMap<&'a str, u64>,
}

/// Workers that could take the tasks of a ready queue.
struct Pool<'a> {
    needs: &'a BTreeMap<String, u64>,
    placement: Placement,
    groups: Vec<(usize, btree_set::Iter<'a, (Load, WorkerId)>)>,
    /// The entries, best first: the next member of each group (with its position in `groups`), and workers assigned
    /// before, whose loads may be outdated.
    queue: BinaryHeap<Reverse<PoolEntry>>,
    /// The number of assignments it has caught up on.
    seen: usize,
}

/// A member of a pool; the least one is taken first.
#[derive(Debug, PartialEq, Eq)]
struct PoolEntry {
    overloaded: bool,
    load: Load,
    worker: WorkerId,
    drawn: Option<usize>,
    placement: Placement,
}

impl Ord for PoolEntry {
    fn cmp(&self, other: &Self) -> Ordering {
        let emptier = (self.load, self.worker).cmp(&(other.load, other.worker));
        let by_load = match self.placement {
            Placement::Spread => emptier,
            Placement::Pack => emptier.reverse(),
        };
        self.overloaded
            .cmp(&other.overloaded)
            .then(by_load)
            .then(self.drawn.cmp(&other.drawn))
    }
}

impl PartialOrd for PoolEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Identifies a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolId(usize);

impl<'a> WorkerSelector<'a> {
    pub fn new(table: &'a Table, demand: &'a dyn Fn(WorkerId) -> Demand) -> Self {
        let groups = table
            .index
            .worker_groups
            .iter()
            .map(|(profile, group)| GroupCursor {
                profile,
                members: group.iter(),
                demand_cursor: group.iter().peekable(),
            });
        Self {
            table,
            demand,
            groups: groups.collect(),
            candidates: BTreeMap::new(),
            assigned: Vec::new(),
            pools: Vec::new(),
            pools_by: BTreeMap::new(),
        }
    }

    /// Returns the groups in which a member still has demand.
    pub fn groups_with_demand(&mut self) -> Vec<usize> {
        (0..self.groups.len())
            .filter(|&group| self.has_demand(group))
            .collect()
    }

    /// Returns the profile shared by the workers of a group.
    pub fn profile(&self, group: usize) -> &'a Profile {
        self.groups[group].profile
    }

    fn has_demand(&mut self, group: usize) -> bool {
        while let Some((_, worker)) = self.groups[group].demand_cursor.peek() {
            let left = self.candidates.get(worker).map_or_else(
                || (self.demand)(*worker).wanted,
                |candidate| candidate.wanted,
            );
            if left > 0 {
                return true;
            }
            self.groups[group].demand_cursor.next();
        }
        false
    }

    /// Returns the pool of those of these groups that take tasks of this class; `None` if none does.
    pub fn pool(
        &mut self,
        groups: &[usize],
        class: &'a Class,
        placement: Placement,
    ) -> Option<PoolId> {
        let takes = |&group: &usize| self.groups[group].profile.takes(class);
        let takers: Vec<usize> = groups.iter().copied().filter(takes).collect();
        if takers.is_empty() {
            return None;
        }
        let needs = &class.requires.resources;
        match self.pools_by.entry((takers, needs, placement)) {
            btree_map::Entry::Occupied(known) => Some(PoolId(*known.get())),
            btree_map::Entry::Vacant(unknown) => {
                let members = |&group: &usize| (group, self.groups[group].members.clone());
                let mut pool = Pool {
                    needs,
                    placement,
                    groups: unknown.key().0.iter().map(members).collect(),
                    queue: BinaryHeap::new(),
                    seen: 0,
                };
                for at in 0..pool.groups.len() {
                    pool.draw(at, self.demand);
                }
                self.pools.push(pool);
                Some(PoolId(*unknown.insert(self.pools.len() - 1)))
            }
        }
    }

    /// Assigns a task to the best worker of a pool that has demand and capacity.
    pub fn assign(&mut self, pool: PoolId) -> Option<WorkerId> {
        let pool = &mut self.pools[pool.0];
        pool.catch_up(&self.assigned, &self.candidates);
        while let Some(Reverse(entry)) = pool.queue.pop() {
            let PoolEntry { worker, drawn, .. } = entry;
            if let Some(at) = drawn {
                pool.draw(at, self.demand);
            }
            let candidate = match self.candidates.entry(worker) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(unknown) => {
                    let demand = (self.demand)(worker);
                    let Some(at) = drawn.filter(|_| demand.wanted > 0) else {
                        continue;
                    };
                    let group = pool.groups[at].0;
                    let profile = self.groups[group].profile;
                    unknown.insert(Candidate::new(
                        self.table,
                        worker,
                        (group, profile),
                        entry.load,
                        demand,
                    ))
                }
            };
            if !candidate.has_capacity(pool.needs) {
                continue;
            }
            let taken = entry.load == candidate.load;
            if taken {
                candidate.take(pool.needs);
                self.assigned.push((candidate.group, worker));
            }
            match pool.placement {
                // If it was not taken, another pool has assigned it since, so it is requeued with its current load.
                Placement::Spread => pool.requeue(worker, candidate),
                // The pool requeues the worker with its current load when it catches up, or has done so already.
                Placement::Pack => {}
            }
            if taken {
                return Some(worker);
            }
        }
        None
    }
}

impl Pool<'_> {
    /// Requeues the workers that were assigned since the last call, with their current loads.
    fn catch_up(
        &mut self,
        assigned: &[(usize, WorkerId)],
        candidates: &BTreeMap<WorkerId, Candidate<'_>>,
    ) {
        if self.placement == Placement::Spread {
            return;
        }
        for (group, worker) in &assigned[self.seen..] {
            let own = self.groups.binary_search_by_key(group, |&(group, _)| group);
            if let (Ok(_), Some(candidate)) = (own, candidates.get(worker)) {
                self.requeue(*worker, candidate);
            }
        }
        self.seen = assigned.len();
    }

    /// Adds an entry of a worker with its current load.
    fn requeue(&mut self, worker: WorkerId, candidate: &Candidate<'_>) {
        self.queue.push(Reverse(PoolEntry {
            overloaded: candidate.overloaded,
            load: candidate.load,
            worker,
            drawn: None,
            placement: self.placement,
        }));
    }

    /// Draws the next members of a group, up to one whose machine is not overloaded.
    fn draw(&mut self, at: usize, demand: &dyn Fn(WorkerId) -> Demand) {
        loop {
            let members = &mut self.groups[at].1;
            let next = match self.placement {
                Placement::Spread => members.next(),
                Placement::Pack => members.next_back(),
            };
            let Some(&(load, worker)) = next else {
                return;
            };
            let overloaded = demand(worker).overloaded;
            self.queue.push(Reverse(PoolEntry {
                overloaded,
                load,
                worker,
                drawn: Some(at),
                placement: self.placement,
            }));
            if !overloaded {
                return;
            }
        }
    }
}

impl<'a> Candidate<'a> {
    fn new(
        table: &'a Table,
        worker: WorkerId,
        (group, profile): (usize, &'a Profile),
        load: Load,
        demand: Demand,
    ) -> Self {
        let usage = table.index.worker_groups.usage().get(&worker);
        let used = usage.into_iter().flat_map(|usage| &usage.used);
        Self {
            group,
            profile,
            load,
            wanted: demand.wanted.min(load.slots - load.running),
            overloaded: demand.overloaded,
            used: used
                .map(|(name, &amount)| (name.as_str(), amount))
                .collect(),
        }
    }

    fn has_capacity(&self, needs: &BTreeMap<String, u64>) -> bool {
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

//! Who could take a task: workers that ask, by what they may take and how loaded they are.
//!
//! Everything here is lazy, so that a plan of few grants looks at little. A *pool* is the crews that take a class of tasks;
//! lines with the same crews, needs and placement share a pool. A pool draws members from its crews, best first, and puts
//! back those it has served, now more loaded. Where tasks are spread, a worker that other pools have served since has a
//! worse place than it is filed under, which is found out when it comes up. Where they are packed it has a better one, so
//! each such pool first catches up on who was served.
//!
//! Within one plan workers only fill up. So a worker that has no room for a pool's needs leaves that pool for good, and when
//! no crew has anyone left who asks, the plan is over.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, btree_map, btree_set};

use super::Asking;
use crate::index::worker_groups::Load;
use crate::records::queue::Placement;
use crate::records::task::Class;
use crate::records::worker::Profile;
use crate::table::Table;
use crate::types::ids::WorkerId;

/// All workers that may ask.
pub(super) struct Hands<'a> {
    table: &'a Table,
    asking: &'a dyn Fn(WorkerId) -> Asking,
    crews: Vec<Scouted<'a>>,
    hands: BTreeMap<WorkerId, Hand<'a>>,
    /// Who was served, in order, each with its crew.
    served: Vec<(usize, WorkerId)>,
    pools: Vec<Pool<'a>>,
    pools_by: BTreeMap<PoolKey<'a>, usize>,
}

/// The crews of a pool, what its tasks need, and how they are placed.
type PoolKey<'a> = (Vec<usize>, &'a BTreeMap<String, u64>, Placement);

/// A crew, and how far it is known that nobody in it asks any more.
struct Scouted<'a> {
    profile: &'a Profile,
    members: btree_set::Iter<'a, (Load, WorkerId)>,
    scout: std::iter::Peekable<btree_set::Iter<'a, (Load, WorkerId)>>,
}

/// A worker that asked and was looked at.
struct Hand<'a> {
    crew: usize,
    profile: &'a Profile,
    load: Load,
    wanted: u32,
    overloaded: bool,
    used: BTreeMap<&'a str, u64>,
}

/// Workers that could serve a line.
struct Pool<'a> {
    needs: &'a BTreeMap<String, u64>,
    placement: Placement,
    crews: Vec<(usize, btree_set::Iter<'a, (Load, WorkerId)>)>,
    /// Best first: the next member of each crew (with its place in `crews`), and those served before, whose loads may
    /// lag behind.
    queue: BinaryHeap<Reverse<Candidate>>,
    /// How many of those served it has caught up on.
    seen: usize,
}

/// A member of a pool; the least of them is taken first.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    overloaded: bool,
    load: Load,
    worker: WorkerId,
    drawn: Option<usize>,
    placement: Placement,
}

impl Ord for Candidate {
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

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Which pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolId(usize);

impl<'a> Hands<'a> {
    pub fn new(table: &'a Table, asking: &'a dyn Fn(WorkerId) -> Asking) -> Self {
        let crews = table.index.crews.iter().map(|(profile, crew)| Scouted {
            profile,
            members: crew.iter(),
            scout: crew.iter().peekable(),
        });
        Self {
            table,
            asking,
            crews: crews.collect(),
            hands: BTreeMap::new(),
            served: Vec::new(),
            pools: Vec::new(),
            pools_by: BTreeMap::new(),
        }
    }

    /// The crews in which somebody still asks.
    pub fn asking_crews(&mut self) -> Vec<usize> {
        (0..self.crews.len())
            .filter(|&crew| self.asks(crew))
            .collect()
    }

    /// What the workers of a crew may take.
    pub fn profile(&self, crew: usize) -> &'a Profile {
        self.crews[crew].profile
    }

    fn asks(&mut self, crew: usize) -> bool {
        while let Some((_, worker)) = self.crews[crew].scout.peek() {
            let left = self
                .hands
                .get(worker)
                .map_or_else(|| (self.asking)(*worker).wanted, |hand| hand.wanted);
            if left > 0 {
                return true;
            }
            self.crews[crew].scout.next();
        }
        false
    }

    /// The pool of those of these crews that take tasks of this class; `None` if none does.
    pub fn pool(
        &mut self,
        crews: &[usize],
        class: &'a Class,
        placement: Placement,
    ) -> Option<PoolId> {
        let takes = |&crew: &usize| self.crews[crew].profile.takes(class);
        let takers: Vec<usize> = crews.iter().copied().filter(takes).collect();
        if takers.is_empty() {
            return None;
        }
        let needs = &class.requires.resources;
        match self.pools_by.entry((takers, needs, placement)) {
            btree_map::Entry::Occupied(known) => Some(PoolId(*known.get())),
            btree_map::Entry::Vacant(unknown) => {
                let members = |&crew: &usize| (crew, self.crews[crew].members.clone());
                let mut pool = Pool {
                    needs,
                    placement,
                    crews: unknown.key().0.iter().map(members).collect(),
                    queue: BinaryHeap::new(),
                    seen: 0,
                };
                for at in 0..pool.crews.len() {
                    pool.draw(at, self.asking);
                }
                self.pools.push(pool);
                Some(PoolId(*unknown.insert(self.pools.len() - 1)))
            }
        }
    }

    /// The best worker of a pool that asks and has room; it is counted as taken.
    pub fn serve(&mut self, pool: PoolId) -> Option<WorkerId> {
        let pool = &mut self.pools[pool.0];
        pool.catch_up(&self.served, &self.hands);
        while let Some(Reverse(candidate)) = pool.queue.pop() {
            let Candidate { worker, drawn, .. } = candidate;
            if let Some(at) = drawn {
                pool.draw(at, self.asking);
            }
            let hand = match self.hands.entry(worker) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(unknown) => {
                    let asking = (self.asking)(worker);
                    let Some(at) = drawn.filter(|_| asking.wanted > 0) else {
                        continue;
                    };
                    let crew = pool.crews[at].0;
                    let profile = self.crews[crew].profile;
                    unknown.insert(Hand::new(
                        self.table,
                        worker,
                        (crew, profile),
                        candidate.load,
                        asking,
                    ))
                }
            };
            if !hand.has_room(pool.needs) {
                continue;
            }
            let taken = candidate.load == hand.load;
            if taken {
                hand.take(pool.needs);
                self.served.push((hand.crew, worker));
            }
            match pool.placement {
                // If it was not taken, another pool has served it since: it goes back to where it belongs now.
                Placement::Spread => pool.file(worker, hand),
                // Where it belongs now the pool learns when it catches up, or has learnt.
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
    /// Files those that were served where they belong now.
    fn catch_up(&mut self, served: &[(usize, WorkerId)], hands: &BTreeMap<WorkerId, Hand<'_>>) {
        if self.placement == Placement::Spread {
            return;
        }
        for (crew, worker) in &served[self.seen..] {
            let own = self.crews.binary_search_by_key(crew, |&(crew, _)| crew);
            if let (Ok(_), Some(hand)) = (own, hands.get(worker)) {
                self.file(*worker, hand);
            }
        }
        self.seen = served.len();
    }

    /// Puts a worker where it belongs.
    fn file(&mut self, worker: WorkerId, hand: &Hand<'_>) {
        self.queue.push(Reverse(Candidate {
            overloaded: hand.overloaded,
            load: hand.load,
            worker,
            drawn: None,
            placement: self.placement,
        }));
    }

    /// Lets the next members of a crew in, up to one whose machine is not overloaded.
    fn draw(&mut self, at: usize, asking: &dyn Fn(WorkerId) -> Asking) {
        loop {
            let members = &mut self.crews[at].1;
            let next = match self.placement {
                Placement::Spread => members.next(),
                Placement::Pack => members.next_back(),
            };
            let Some(&(load, worker)) = next else {
                return;
            };
            let overloaded = asking(worker).overloaded;
            self.queue.push(Reverse(Candidate {
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

impl<'a> Hand<'a> {
    fn new(
        table: &'a Table,
        worker: WorkerId,
        (crew, profile): (usize, &'a Profile),
        load: Load,
        asking: Asking,
    ) -> Self {
        let holding = table.index.crews.holdings().get(&worker);
        let used = holding.into_iter().flat_map(|holding| &holding.used);
        Self {
            crew,
            profile,
            load,
            wanted: asking.wanted.min(load.slots - load.running),
            overloaded: asking.overloaded,
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

//! Fair sharing between queues. Queues are opened least served first, each with its ready queues in the order of their
//! heads. A ready queue that a present worker group takes is opened and competes with the queue's others by rank. A
//! ready queue that no group takes is passed over.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, btree_map};
use std::sync::Arc;

use crate::command::Grant;
use crate::index::ready_queue::{QueueIndex, Rank, ReadyQueueKey};
use crate::plan::worker_selection::{Demand, PoolId, WorkerSelector};
use crate::records::queue::Queue;
use crate::table::Table;
use crate::types::ids::{TaskId, WorkerId};
use crate::types::queue_options::ns;

/// Iterator over the grants of one plan.
pub(super) struct FairShare<'a> {
    table: &'a Table,
    workers: WorkerSelector<'a>,
    now_ms: u64,
    /// Queues that are not opened yet, least served first.
    candidates: std::iter::Peekable<Candidates<'a>>,
    queues: Vec<ActiveQueue<'a>>,
    /// Open queues that are not done, by the service they will have received.
    order: BinaryHeap<Reverse<(u64, usize)>>,
    /// The virtual time of start-time fair queueing.
    virtual_time: u64,
    /// Whether there may be tasks whose expiry time has passed, so that they must not start.
    has_late_tasks: bool,
    /// Number of late tasks that may still be passed over. At a late task beyond that, its queue's part in the plan
    /// ends.
    late_budget: u32,
}

/// Maximum number of late tasks that a plan passes over. Tasks that are too late to start stay in their ready queues
/// until `AdvanceTime` expires them, which expires about as many at once.
const LATE_TASKS_MAX: u32 = 4_096;

type Candidates<'a> = Box<dyn Iterator<Item = (u64, &'a Arc<str>)> + 'a>;

/// A queue that is open in this plan.
struct ActiveQueue<'a> {
    index: &'a QueueIndex,
    /// Its record as it will be when the plan has been applied.
    record: Queue,
    /// The number of its tasks that may still start.
    left: u64,
    /// Heads of ready queues that are not opened yet.
    heads: std::iter::Peekable<btree_map::Iter<'a, Rank, ReadyQueueKey>>,
    ready_queues: Vec<ActiveReadyQueue<'a>>,
    /// The first task of every open ready queue that is not done.
    fronts: BinaryHeap<Reverse<(Rank, usize)>>,
}

/// An open ready queue: a worker group takes its tasks.
struct ActiveReadyQueue<'a> {
    tasks: btree_map::Iter<'a, Rank, TaskId>,
    next: TaskId,
    pool: PoolId,
}

/// Returns when a rate next lets a task start that it holds back now, in Unix ms.
pub(super) fn next_start_ms(table: &Table, now_ms: u64) -> Option<u64> {
    let later = (ns(now_ms) + 1, Arc::from(""))..;
    let (at_ns, _) = table.index.queue_order.rate_limited.range(later).next()?;
    Some(at_ns.div_ceil(1_000_000))
}

/// Returns the queues that may start a task now, least served first.
fn candidates<'a>(
    table: &'a Table,
    workers: &mut WorkerSelector<'a>,
    now_ms: u64,
) -> Candidates<'a> {
    let queue_order = &table.index.queue_order;
    let rate_limited = queue_order
        .rate_limited
        .iter()
        .take_while(move |(at_ns, _)| *at_ns <= ns(now_ms));
    let served = |name: &'a Arc<str>| {
        let queue = table.index.queue(name);
        (queue.map_or(0, |queue| queue.record.served), name)
    };
    let groups = workers.groups_with_demand();
    let named = groups
        .iter()
        .map(|&group| workers.profile(group).queues.len());
    if named.sum::<usize>() < queue_order.unlimited.len() + queue_order.rate_limited.len() {
        // The workers name fewer queues than have startable tasks, so the named ones are looked up one by one.
        let names: BTreeSet<&String> = groups
            .iter()
            .flat_map(|&group| &workers.profile(group).queues)
            .collect();
        let known = names
            .into_iter()
            .filter_map(|name| table.queues.get_key_value(&**name));
        let ready = known.filter(|(name, queue)| {
            let unlimited = queue_order
                .unlimited
                .contains(&(queue.served, (*name).clone()));
            let start_ns = queue.next_start_ns();
            unlimited
                || start_ns <= ns(now_ms)
                    && queue_order
                        .rate_limited
                        .contains(&(start_ns, (*name).clone()))
        });
        let mut found: Vec<_> = ready.map(|(name, queue)| (queue.served, name)).collect();
        found.sort_unstable();
        return Box::new(found.into_iter());
    }
    let mut rate_limited: Vec<_> = rate_limited.map(|(_, name)| served(name)).collect();
    rate_limited.sort_unstable();
    let mut rate_limited = rate_limited.into_iter().peekable();
    let mut unlimited = queue_order
        .unlimited
        .iter()
        .map(|(served, name)| (*served, name))
        .peekable();
    Box::new(std::iter::from_fn(move || {
        match (rate_limited.peek(), unlimited.peek()) {
            (Some(a), Some(b)) if a < b => rate_limited.next(),
            (Some(_), None) => rate_limited.next(),
            (_, Some(_)) => unlimited.next(),
            (None, None) => None,
        }
    }))
}

impl<'a> FairShare<'a> {
    pub fn new(table: &'a Table, demand: &'a dyn Fn(WorkerId) -> Demand, now_ms: u64) -> Self {
        let mut workers = WorkerSelector::new(table, demand);
        let candidates = candidates(table, &mut workers, now_ms).peekable();
        Self {
            table,
            workers,
            now_ms,
            candidates,
            queues: Vec::new(),
            order: BinaryHeap::new(),
            virtual_time: table.virtual_time,
            has_late_tasks: {
                let first = table.index.expiries.first();
                first.is_some_and(|(at_ms, _)| *at_ms <= now_ms)
            },
            late_budget: LATE_TASKS_MAX,
        }
    }

    /// Opens the queues that come before all open ones. Returns false when no worker has demand left.
    fn open_queues(&mut self) -> bool {
        while let Some(&(served, name)) = self.candidates.peek() {
            let first = self.order.peek();
            if first.is_some_and(|Reverse((first, _))| *first < served.max(self.virtual_time)) {
                return true;
            }
            if self.workers.groups_with_demand().is_empty() {
                return false;
            }
            self.candidates.next();
            let Some(index) = self.table.index.queue(name) else {
                continue;
            };
            let record = index.record.clone();
            let left = index
                .remaining_capacity()
                .min(record.starts_allowed(self.now_ms));
            self.order
                .push(Reverse((served.max(self.virtual_time), self.queues.len())));
            self.queues.push(ActiveQueue {
                index,
                record,
                left,
                heads: index.heads.iter().peekable(),
                ready_queues: Vec::new(),
                fronts: BinaryHeap::new(),
            });
        }
        true
    }

    /// Grants the first startable task of a queue to a worker that takes it.
    fn start(&mut self, at: usize) -> Option<Grant> {
        let queue = &mut self.queues[at];
        if queue.left == 0 {
            return None;
        }
        loop {
            queue.open_ready_queues(&mut self.workers);
            let Reverse((_, at)) = queue.fronts.pop()?;
            let ready_queue = &mut queue.ready_queues[at];
            let task = ready_queue.next;
            let late = self.has_late_tasks && is_too_late(self.table, task, self.now_ms);
            let worker = if late {
                self.late_budget = self.late_budget.checked_sub(1)?;
                None
            } else {
                let Some(worker) = self.workers.assign(ready_queue.pool) else {
                    continue;
                };
                Some(worker)
            };
            if let Some((&rank, &next)) = ready_queue.tasks.next() {
                ready_queue.next = next;
                queue.fronts.push(Reverse((rank, at)));
            }
            if let Some(worker) = worker {
                queue.left -= 1;
                return Some(Grant { task, worker });
            }
        }
    }
}

fn is_too_late(table: &Table, task: TaskId, now_ms: u64) -> bool {
    let task = table.task(task);
    task.is_some_and(|task| task.is_too_late(now_ms))
}

impl Iterator for FairShare<'_> {
    type Item = Grant;

    fn next(&mut self) -> Option<Grant> {
        while self.open_queues() {
            let Reverse((_, at)) = self.order.pop()?;
            let Some(grant) = self.start(at) else {
                continue;
            };
            let queue = &mut self.queues[at];
            let start = queue.record.record_start(self.virtual_time, self.now_ms);
            self.virtual_time = self.virtual_time.max(start);
            self.order.push(Reverse((queue.record.served, at)));
            return Some(grant);
        }
        None
    }
}

impl<'a> ActiveQueue<'a> {
    /// Opens the ready queues that come before all open ones.
    fn open_ready_queues(&mut self, workers: &mut WorkerSelector<'a>) {
        while let Some(&(&rank, key)) = self.heads.peek() {
            let first = self.fronts.peek();
            if first.is_some_and(|Reverse((first, _))| *first < rank) {
                return;
            }
            self.heads.next();
            let groups = workers.groups_with_demand();
            let placement = self.record.settings.placement;
            let Some(pool) = workers.pool(&groups, &key.0, placement) else {
                continue;
            };
            let ready_queue = self
                .index
                .ready_queue(key)
                .expect("a ready_queue that has a head is there");
            let mut tasks = ready_queue.iter();
            let (_, &next) = tasks.next().expect("no ready_queue is empty");
            self.fronts.push(Reverse((rank, self.ready_queues.len())));
            self.ready_queues
                .push(ActiveReadyQueue { tasks, next, pool });
        }
    }
}

//! Whose turn it is, and which of its tasks: queues come up in the order of how much they were served, each with its lines
//! in the order of their first tasks. A line that a present crew takes is opened and competes with the queue's others by
//! rank; one that nobody takes is passed over.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, btree_map};
use std::sync::Arc;

use super::Asking;
use crate::command::Grant;
use crate::index::ready_queue::{LineKey, QueueIndex, Rank};
use crate::plan::worker_selection::{Hands, PoolId};
use crate::records::queue::{Queue, ns};
use crate::table::Table;
use crate::types::ids::{TaskId, WorkerId};

/// A plan in the making; iterating makes it.
pub(super) struct Shares<'a> {
    table: &'a Table,
    hands: Hands<'a>,
    now_ms: u64,
    /// Queues that have not come up yet, least served first.
    candidates: std::iter::Peekable<Candidates<'a>>,
    queues: Vec<Open<'a>>,
    /// Those that have come up and are not done, by how much they will have been served.
    turns: BinaryHeap<Reverse<(u64, usize)>>,
    /// Where the queues together stand.
    level: u64,
    /// Whether there may be tasks that are too late to start.
    some_late: bool,
    /// How many of them are passed over yet; met beyond that, they end their queue's part in the plan.
    late_left: u32,
}

/// Tasks that are too late to start stand in their lines until time is advanced, which takes along about as many at once.
const LATE_MAX: u32 = 4_096;

type Candidates<'a> = Box<dyn Iterator<Item = (u64, &'a Arc<str>)> + 'a>;

/// A queue that has come up.
struct Open<'a> {
    index: &'a QueueIndex,
    /// As it will be when the plan has been applied.
    record: Queue,
    /// How many of its tasks may still start.
    left: u64,
    /// Lines that have not come up yet.
    heads: std::iter::Peekable<btree_map::Iter<'a, Rank, LineKey>>,
    lines: Vec<Line<'a>>,
    /// The first task of every line that is not done.
    fronts: BinaryHeap<Reverse<(Rank, usize)>>,
}

/// A line that a crew takes.
struct Line<'a> {
    tasks: btree_map::Iter<'a, Rank, TaskId>,
    next: TaskId,
    pool: PoolId,
}

/// When a rate next lets a task start that it holds back now.
pub(super) fn next_start_ms(table: &Table, now_ms: u64) -> Option<u64> {
    let later = (ns(now_ms) + 1, Arc::from(""))..;
    let (at_ns, _) = table.index.turns.rated.range(later).next()?;
    Some(at_ns.div_ceil(1_000_000))
}

/// Queues that may start something now, least served first.
fn candidates<'a>(table: &'a Table, hands: &mut Hands<'a>, now_ms: u64) -> Candidates<'a> {
    let turns = &table.index.turns;
    let rated = turns
        .rated
        .iter()
        .take_while(move |(at_ns, _)| *at_ns <= ns(now_ms));
    let served = |name: &'a Arc<str>| {
        let queue = table.index.queue(name);
        (queue.map_or(0, |queue| queue.record.served), name)
    };
    let crews = hands.asking_crews();
    let named = crews.iter().map(|&crew| hands.profile(crew).queues.len());
    if named.sum::<usize>() < turns.free.len() + turns.rated.len() {
        // The workers name fewer queues than have something to do: looked up one by one.
        let names: BTreeSet<&String> = crews
            .iter()
            .flat_map(|&crew| &hands.profile(crew).queues)
            .collect();
        let known = names
            .into_iter()
            .filter_map(|name| table.queues.get_key_value(&**name));
        let ready = known.filter(|(name, queue)| {
            let free = turns.free.contains(&(queue.served, (*name).clone()));
            let start_ns = queue.next_start_ns();
            free || start_ns <= ns(now_ms) && turns.rated.contains(&(start_ns, (*name).clone()))
        });
        let mut found: Vec<_> = ready.map(|(name, queue)| (queue.served, name)).collect();
        found.sort_unstable();
        return Box::new(found.into_iter());
    }
    let mut rated: Vec<_> = rated.map(|(_, name)| served(name)).collect();
    rated.sort_unstable();
    let mut rated = rated.into_iter().peekable();
    let mut free = turns
        .free
        .iter()
        .map(|(served, name)| (*served, name))
        .peekable();
    Box::new(std::iter::from_fn(move || {
        match (rated.peek(), free.peek()) {
            (Some(a), Some(b)) if a < b => rated.next(),
            (Some(_), None) => rated.next(),
            (_, Some(_)) => free.next(),
            (None, None) => None,
        }
    }))
}

impl<'a> Shares<'a> {
    pub fn new(table: &'a Table, asking: &'a dyn Fn(WorkerId) -> Asking, now_ms: u64) -> Self {
        let mut hands = Hands::new(table, asking);
        let candidates = candidates(table, &mut hands, now_ms).peekable();
        Self {
            table,
            hands,
            now_ms,
            candidates,
            queues: Vec::new(),
            turns: BinaryHeap::new(),
            level: table.served,
            some_late: {
                let first = table.index.expiries.first();
                first.is_some_and(|(at_ms, _)| *at_ms <= now_ms)
            },
            late_left: LATE_MAX,
        }
    }

    /// Lets come up what comes before all queues that have. False when nobody asks any more.
    fn open_queues(&mut self) -> bool {
        while let Some(&(served, name)) = self.candidates.peek() {
            let first = self.turns.peek();
            if first.is_some_and(|Reverse((first, _))| *first < served.max(self.level)) {
                return true;
            }
            if self.hands.asking_crews().is_empty() {
                return false;
            }
            self.candidates.next();
            let Some(index) = self.table.index.queue(name) else {
                continue;
            };
            let record = index.record.clone();
            let left = index.room().min(record.starts_allowed(self.now_ms));
            self.turns
                .push(Reverse((served.max(self.level), self.queues.len())));
            self.queues.push(Open {
                index,
                record,
                left,
                heads: index.heads.iter().peekable(),
                lines: Vec::new(),
                fronts: BinaryHeap::new(),
            });
        }
        true
    }

    /// Starts the first task of a queue that somebody takes.
    fn start(&mut self, at: usize) -> Option<Grant> {
        let queue = &mut self.queues[at];
        if queue.left == 0 {
            return None;
        }
        loop {
            queue.open_lines(&mut self.hands);
            let Reverse((_, at)) = queue.fronts.pop()?;
            let line = &mut queue.lines[at];
            let task = line.next;
            let late = self.some_late && is_too_late(self.table, task, self.now_ms);
            let worker = if late {
                self.late_left = self.late_left.checked_sub(1)?;
                None
            } else {
                let Some(worker) = self.hands.serve(line.pool) else {
                    continue;
                };
                Some(worker)
            };
            if let Some((&rank, &next)) = line.tasks.next() {
                line.next = next;
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

impl Iterator for Shares<'_> {
    type Item = Grant;

    fn next(&mut self) -> Option<Grant> {
        while self.open_queues() {
            let Reverse((_, at)) = self.turns.pop()?;
            let Some(grant) = self.start(at) else {
                continue;
            };
            let queue = &mut self.queues[at];
            let start = queue.record.serve(self.level, self.now_ms);
            self.level = self.level.max(start);
            self.turns.push(Reverse((queue.record.served, at)));
            return Some(grant);
        }
        None
    }
}

impl<'a> Open<'a> {
    /// Opens the lines that come before all that are open.
    fn open_lines(&mut self, hands: &mut Hands<'a>) {
        while let Some(&(&rank, key)) = self.heads.peek() {
            let first = self.fronts.peek();
            if first.is_some_and(|Reverse((first, _))| *first < rank) {
                return;
            }
            self.heads.next();
            let crews = hands.asking_crews();
            let placement = self.record.settings.placement;
            let Some(pool) = hands.pool(&crews, &key.0, placement) else {
                continue;
            };
            let line = self
                .index
                .line(key)
                .expect("a line that has a head is there");
            let mut tasks = line.iter();
            let (_, &next) = tasks.next().expect("no line is empty");
            self.fronts.push(Reverse((rank, self.lines.len())));
            self.lines.push(Line { tasks, next, pool });
        }
    }
}

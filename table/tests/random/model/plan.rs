//! The scheduler's rule in its plainest form: look at every queue, task and worker, again for each grant.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use triarch_table::WorkerId;
use triarch_table::command::Grant;
use triarch_table::plan::{Asking, Plan};
use triarch_table::records::queue::Placement;

use super::queues::ModelQueue;
use super::{Model, ModelTask, ModelWorker};

struct Hand<'a> {
    worker: &'a ModelWorker,
    wanted: u64,
    overloaded: bool,
    running: u64,
    used: BTreeMap<&'a String, u64>,
}

/// A queue, as it will be when the plan has been applied.
struct Share<'a> {
    name: &'a String,
    queue: ModelQueue,
    room: u64,
}

impl Model {
    pub fn propose(
        &self,
        asking: &dyn Fn(WorkerId) -> Asking,
        now_ms: u64,
        grants_max: usize,
    ) -> Plan {
        let live = self.workers.values().filter(|worker| worker.seats() > 0);
        let mut hands: Vec<Hand<'_>> = live.map(|worker| self.hand(worker, asking)).collect();
        let mut line = self.in_line();
        let mut shares: Vec<Share<'_>> = self
            .queues
            .iter()
            .filter(|(_, queue)| !queue.settings.paused)
            .map(|(name, queue)| Share {
                name,
                queue: queue.clone(),
                room: self.queue_room(name),
            })
            .collect();
        let rates = shares.iter().filter(|share| {
            let has_ready = line.iter().any(|task| task.new.queue == *share.name);
            share.room > 0 && has_ready && !share.queue.rate_lets(now_ms)
        });
        let again_ms = rates.map(|share| share.queue.next_start_ns().div_ceil(1_000_000));
        let again_ms = again_ms.min();

        shares.sort_by_key(|share| (share.queue.served, share.name));
        let mut level = self.level;
        let mut grants = Vec::new();
        while grants.len() < grants_max {
            let mut turns: Vec<usize> = (0..shares.len()).collect();
            turns.sort_by_key(|&at| (shares[at].queue.served.max(level), at));
            let next = turns.into_iter().find_map(|at| {
                let Share { name, queue, room } = &shares[at];
                let may = *room > 0 && queue.rate_lets(now_ms);
                let first = line.iter().position(|task| {
                    let of_queue = may && task.new.queue == **name;
                    let in_time = task.expires_ms.is_none_or(|at_ms| at_ms > now_ms);
                    of_queue && in_time && hands.iter().any(|hand| hand.can_take(task))
                });
                Some((at, first?))
            });
            let Some((at, first)) = next else {
                break;
            };
            let (share, task) = (&mut shares[at], line.remove(first));
            let placement = share.queue.settings.placement;
            let takers = hands.iter_mut().filter(|hand| hand.can_take(task));
            let best = takers.min_by(|a, b| a.compare(b, placement));
            let hand = best.expect("somebody can take it");
            hand.wanted -= 1;
            hand.running += 1;
            for (name, amount) in &task.new.requires.resources {
                *hand.used.entry(name).or_default() += amount;
            }
            grants.push(Grant {
                task: task.id,
                worker: hand.worker.id,
            });
            share.room -= 1;
            level = share.queue.start(level, now_ms);
        }
        Plan { grants, again_ms }
    }

    fn hand<'a>(
        &'a self,
        worker: &'a ModelWorker,
        asking: &dyn Fn(WorkerId) -> Asking,
    ) -> Hand<'a> {
        let held = self.held_by(worker.id);
        let mut used: BTreeMap<&String, u64> = BTreeMap::new();
        for task in &held {
            for (name, amount) in &self.tasks[task].new.requires.resources {
                *used.entry(name).or_default() += amount;
            }
        }
        let Asking { wanted, overloaded } = asking(worker.id);
        Hand {
            worker,
            wanted: wanted.into(),
            overloaded,
            running: held.len() as u64,
            used,
        }
    }
}

impl Hand<'_> {
    fn can_take(&self, task: &ModelTask) -> bool {
        let (has, new) = (&self.worker.is, &task.new);
        self.wanted > 0
            && self.running < self.worker.seats()
            && has.queues.contains(&new.queue)
            && has.kinds.contains(&new.kind)
            && new
                .requires
                .labels
                .iter()
                .all(|label| has.labels.iter().any(|own| own == label))
            && new.requires.resources.iter().all(|(name, amount)| {
                let total = has.resources.get(name).copied().unwrap_or(0);
                self.used.get(name).copied().unwrap_or(0) + amount <= total
            })
    }

    /// Who comes first: overloaded ones last, then by the part of the slots in use.
    fn compare(&self, other: &Self, placement: Placement) -> Ordering {
        let part = |a: &Self, b: &Self| a.running * b.worker.seats();
        let emptier = part(self, other)
            .cmp(&part(other, self))
            .then(self.running.cmp(&other.running))
            .then(self.worker.id.cmp(&other.worker.id));
        let by_load = match placement {
            Placement::Spread => emptier,
            Placement::Pack => emptier.reverse(),
        };
        self.overloaded.cmp(&other.overloaded).then(by_load)
    }
}

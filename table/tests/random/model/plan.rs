//! Model of the scheduler: it searches every queue, task and worker again for each grant.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use triarch_table::WorkerId;
use triarch_table::command::Grant;
use triarch_table::plan::{Demand, Plan};
use triarch_table::types::queue_options::Placement;

use super::queues::ModelQueue;
use super::{Model, ModelTask, ModelWorker};

struct Candidate<'a> {
    worker: &'a ModelWorker,
    wanted: u64,
    overloaded: bool,
    running: u64,
    used: BTreeMap<&'a String, u64>,
}

/// A queue as it will be when the plan has been applied.
struct QueueShare<'a> {
    name: &'a String,
    queue: ModelQueue,
    capacity: u64,
}

impl Model {
    pub fn propose(
        &self,
        demand: &dyn Fn(WorkerId) -> Demand,
        now_ms: u64,
        grants_max: usize,
    ) -> Plan {
        let live = self
            .workers
            .values()
            .filter(|worker| worker.usable_slots() > 0);
        let mut candidates: Vec<Candidate<'_>> =
            live.map(|worker| self.candidate(worker, demand)).collect();
        let mut line = self.in_line();
        let mut queues: Vec<QueueShare<'_>> = self
            .queues
            .iter()
            .filter(|(_, queue)| !queue.settings.paused)
            .map(|(name, queue)| QueueShare {
                name,
                queue: queue.clone(),
                capacity: self.queue_room(name),
            })
            .collect();
        let rates = queues.iter().filter(|share| {
            let has_ready = line.iter().any(|task| task.new.queue == *share.name);
            share.capacity > 0 && has_ready && !share.queue.rate_lets(now_ms)
        });
        let next_start_ms = rates.map(|share| share.queue.next_start_ns().div_ceil(1_000_000));
        let next_start_ms = next_start_ms.min();

        queues.sort_by_key(|share| (share.queue.served, share.name));
        let mut virtual_time = self.virtual_time;
        let mut grants = Vec::new();
        while grants.len() < grants_max {
            let mut order: Vec<usize> = (0..queues.len()).collect();
            order.sort_by_key(|&at| (queues[at].queue.served.max(virtual_time), at));
            let next = order.into_iter().find_map(|at| {
                let QueueShare {
                    name,
                    queue,
                    capacity,
                } = &queues[at];
                let may = *capacity > 0 && queue.rate_lets(now_ms);
                let first = line.iter().position(|task| {
                    let of_queue = may && task.new.queue == **name;
                    let in_time = task.expires_ms.is_none_or(|at_ms| at_ms > now_ms);
                    of_queue
                        && in_time
                        && candidates.iter().any(|candidate| candidate.can_take(task))
                });
                Some((at, first?))
            });
            let Some((at, first)) = next else {
                break;
            };
            let (share, task) = (&mut queues[at], line.remove(first));
            let placement = share.queue.settings.placement;
            let takers = candidates
                .iter_mut()
                .filter(|candidate| candidate.can_take(task));
            let best = takers.min_by(|a, b| a.compare(b, placement));
            let candidate = best.expect("somebody can take it");
            candidate.wanted -= 1;
            candidate.running += 1;
            for (name, amount) in &task.new.requires.resources {
                *candidate.used.entry(name).or_default() += amount;
            }
            grants.push(Grant {
                task: task.id,
                worker: candidate.worker.id,
            });
            share.capacity -= 1;
            virtual_time = share.queue.start(virtual_time, now_ms);
        }
        Plan {
            grants,
            next_start_ms,
        }
    }

    fn candidate<'a>(
        &'a self,
        worker: &'a ModelWorker,
        demand: &dyn Fn(WorkerId) -> Demand,
    ) -> Candidate<'a> {
        let held = self.held_by(worker.id);
        let mut used: BTreeMap<&String, u64> = BTreeMap::new();
        for task in &held {
            for (name, amount) in &self.tasks[task].new.requires.resources {
                *used.entry(name).or_default() += amount;
            }
        }
        let Demand { wanted, overloaded } = demand(worker.id);
        Candidate {
            worker,
            wanted: wanted.into(),
            overloaded,
            running: held.len() as u64,
            used,
        }
    }
}

impl Candidate<'_> {
    fn can_take(&self, task: &ModelTask) -> bool {
        let (has, new) = (&self.worker.is, &task.new);
        self.wanted > 0
            && self.running < self.worker.usable_slots()
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

    /// Compares two candidates: overloaded ones come last, then the part of the slots in use decides.
    fn compare(&self, other: &Self, placement: Placement) -> Ordering {
        let part = |a: &Self, b: &Self| a.running * b.worker.usable_slots();
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

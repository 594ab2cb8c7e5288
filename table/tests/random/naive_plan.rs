//! The scheduler's rule in its plainest form: look at every task and every worker, again for each grant.

use std::collections::BTreeMap;

use triarch_table::command::Grant;
use triarch_table::model::{TaskState, WorkerState};
use triarch_table::plan::Demand;
use triarch_table::queue::AGEING_MS;
use triarch_table::task::Life;
use triarch_table::{Table, Task, TaskFilter, Worker, WorkerId};

/// What one start of a queue of weight 1 is worth.
const SHARE: u64 = 1 << 24;

struct Hand<'a> {
    worker: &'a Worker,
    wanted: u64,
    running: u64,
    used: BTreeMap<String, u64>,
}

pub fn propose(table: &Table, demands: &[Demand], grants_max: usize) -> Vec<Grant> {
    let mut wanted: BTreeMap<WorkerId, u64> = BTreeMap::new();
    for demand in demands {
        *wanted.entry(demand.worker).or_default() += u64::from(demand.wanted);
    }
    let live = table
        .workers()
        .filter(|worker| worker.state() == WorkerState::Live);
    let mut hands: Vec<Hand<'_>> = live
        .map(|worker| {
            let mut used: BTreeMap<String, u64> = BTreeMap::new();
            for lease in table.leases_of(worker.id) {
                let task = table.task(lease.task).expect("leased");
                for (name, amount) in &task.spec.class.requires.resources {
                    *used.entry(name.clone()).or_default() += amount;
                }
            }
            let running = table.leases_of(worker.id).count() as u64;
            Hand {
                worker,
                wanted: wanted.get(&worker.id).copied().unwrap_or(0),
                running,
                used,
            }
        })
        .collect();

    let filter = TaskFilter {
        state: Some(TaskState::Queued),
        ..TaskFilter::default()
    };
    let mut queued = table.tasks(&filter, None, usize::MAX).items;
    queued.sort_by_key(|task| match task.life {
        Life::Queued { place } => {
            let handicap_ms = u64::from(9 - task.priority()) * AGEING_MS;
            (place.since_ms + handicap_ms, place.order)
        }
        _ => panic!("{task:?} is listed as queued"),
    });
    let mut queues: Vec<(u64, &str)> = table
        .queues()
        .map(|queue| (queue.served, queue.name))
        .collect();
    queues.sort_unstable();
    let mut level = table.served();
    let mut grants = Vec::new();
    while grants.len() < grants_max {
        let mut turns: Vec<usize> = (0..queues.len()).collect();
        turns.sort_by_key(|&at| (queues[at].0.max(level), at));
        let found = turns.into_iter().find_map(|at| {
            let position = queued.iter().position(|task| {
                task.queue() == queues[at].1 && hands.iter().any(|hand| hand.can_take(task))
            })?;
            Some((at, position))
        });
        let Some((at, position)) = found else {
            break;
        };
        let task = queued.remove(position);
        let takers = hands.iter_mut().filter(|hand| hand.can_take(task));
        let best = takers.min_by(|a, b| {
            let (part_a, part_b) = (
                a.running * u64::from(b.worker.slots),
                b.running * u64::from(a.worker.slots),
            );
            (part_a, a.running, a.worker.id).cmp(&(part_b, b.running, b.worker.id))
        });
        let hand = best.expect("somebody can take it");
        hand.wanted -= 1;
        hand.running += 1;
        for (name, amount) in &task.spec.class.requires.resources {
            *hand.used.entry(name.clone()).or_default() += amount;
        }
        grants.push(Grant {
            task: task.id,
            worker: hand.worker.id,
        });
        level = level.max(queues[at].0);
        queues[at].0 = level + SHARE;
    }
    grants
}

impl Hand<'_> {
    fn can_take(&self, task: &Task) -> bool {
        let profile = &self.worker.profile;
        let requires = &task.spec.class.requires;
        self.wanted > 0
            && self.running < u64::from(self.worker.slots)
            && profile.queues.contains(task.queue())
            && profile.kinds.contains(task.kind())
            && requires
                .labels
                .iter()
                .all(|label| profile.labels.iter().any(|own| own == label))
            && requires.resources.iter().all(|(name, amount)| {
                let total = profile.resources.get(name).copied().unwrap_or(0);
                self.used.get(name).copied().unwrap_or(0) + amount <= total
            })
    }
}

//! The scheduler's rule in its plainest form: look at every task and every worker, again for each grant.

use std::collections::BTreeMap;

use triarch_table::command::Grant;
use triarch_table::model::{TaskState, WorkerState};
use triarch_table::plan::Demand;
use triarch_table::task::Life;
use triarch_table::{Table, Task, TaskFilter, Worker, WorkerId};

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
        Life::Queued { place } => (9 - task.priority(), place.order),
        _ => panic!("{task:?} is listed as queued"),
    });
    let mut grants = Vec::new();
    for task in queued {
        let best = hands
            .iter_mut()
            .filter(|hand| hand.can_take(task))
            .min_by(|a, b| {
                let (part_a, part_b) = (
                    a.running * u64::from(b.worker.slots),
                    b.running * u64::from(a.worker.slots),
                );
                (part_a, a.running, a.worker.id).cmp(&(part_b, b.running, b.worker.id))
            });
        if let Some(hand) = best.filter(|_| grants.len() < grants_max) {
            hand.wanted -= 1;
            hand.running += 1;
            for (name, amount) in &task.spec.class.requires.resources {
                *hand.used.entry(name.clone()).or_default() += amount;
            }
            grants.push(Grant {
                task: task.id,
                worker: hand.worker.id,
            });
        }
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

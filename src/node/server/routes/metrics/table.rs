//! Metrics of this node's table, and counters of the leader's decisions.

use strum::VariantArray;
use triarch_table::Table;
use triarch_table::records::job::Counts;
use triarch_table::types::state::{TaskState, WorkerState};

use super::families::{Labels, MetricFamilies};
use crate::leader_counters::{LeaseExpiry, ResultDecision};
use crate::server::app::App;

/// Maximum number of queues listed by name. The rest is aggregated.
const QUEUES_LISTED_MAX: usize = 200;
/// Name under which the rest is listed. A queue that really has this name is always among them.
const OTHERS: &str = "(others)";
/// Task states exposed per queue.
const QUEUE_STATES: [TaskState; 5] = [
    TaskState::Waiting,
    TaskState::Delayed,
    TaskState::Queued,
    TaskState::Running,
    TaskState::Failed,
];

/// Exposed values of one queue.
#[derive(Debug, Clone, Copy, Default)]
struct QueueStats {
    states: [u64; QUEUE_STATES.len()],
    oldest_ms: u64,
}

impl QueueStats {
    fn of(counts: &Counts, oldest_ms: u64) -> Self {
        Self {
            states: QUEUE_STATES.map(|state| counts.of(state)),
            oldest_ms,
        }
    }

    fn total(&self) -> u64 {
        self.states.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.states.iter_mut().zip(other.states) {
            *mine += theirs;
        }
        self.oldest_ms = self.oldest_ms.max(other.oldest_ms);
    }
}

pub fn collect(app: &App, out: &mut MetricFamilies) {
    let ahead_ms = app.clock.table_ahead_ms(app.table.read().now_ms());
    out.gauge(
        "triarch_table_ahead_seconds",
        "By how much the time of the table is ahead of the median of the masters' clocks; 0 if it is not ahead.",
        ahead_ms as f64 / 1_000.0,
    );
    let skew_ms = app.clock.skew_ms().map(|ms| ms as f64 / 1_000.0);
    out.gauges(
        "triarch_clock_ahead_seconds",
        "By how much this node's wall clock is ahead of the median of all masters; absent while fewer than two others are known.",
        skew_ms.map(|seconds| (Labels::new(), seconds)).into_iter().collect(),
    );
    let now_ms = app.clock.now_ms();
    let table = app.table.read();
    let queue_stats = queues(&table, now_ms);
    let counts = *table.counts();
    let workers = WorkerState::ALL.map(|state| (state, table.workers_in(state)));
    let (jobs, schedules) = (table.jobs_len(), table.schedules_len());
    let (bytes, queues) = (table.bytes(), table.queues_len());
    drop(table);

    let state = |word: &str| -> Labels { vec![("state", word.to_owned())] };
    out.gauges(
        "triarch_tasks",
        "Tasks in the table by state, including finished ones that are kept.",
        counts
            .iter()
            .map(|(of, count)| (state(of.as_str()), count as f64))
            .collect(),
    );
    out.gauge(
        "triarch_jobs",
        "Jobs in the table, including finished ones that are kept.",
        jobs as f64,
    );
    out.gauge("triarch_schedules", "Schedules.", schedules as f64);
    out.gauges(
        "triarch_workers",
        "Workers by state. Workers that are lost or have left are kept for a limited time.",
        workers
            .into_iter()
            .map(|(of, count)| (state(of.as_str()), count as f64))
            .collect(),
    );
    out.gauge(
        "triarch_table_bytes",
        "Size in bytes of payloads, results and errors in the table.",
        bytes as f64,
    );
    out.gauge(
        "triarch_table_memory_bytes",
        "Estimate of the memory of the table: payloads, results, errors, and a fixed amount per task.",
        app.table_memory_bytes() as f64,
    );
    out.gauge(
        "triarch_table_memory_max_bytes",
        "Memory that this node has for the table; beyond it a leader takes no more tasks.",
        app.table_memory_bytes_max as f64,
    );
    out.gauge("triarch_queues", "Queues.", queues as f64);
    let tasks = queue_stats.iter().flat_map(|(name, stats)| {
        let states = QUEUE_STATES.iter().zip(stats.states);
        states.map(move |(of, count)| {
            let labels = vec![("queue", name.clone()), ("state", of.as_str().to_owned())];
            (labels, count as f64)
        })
    });
    out.gauges(
        "triarch_queue_tasks",
        "Unfinished and failed tasks of a queue, by state. The 200 fullest queues are listed by name, the others together as (others).",
        tasks.collect(),
    );
    let oldest = queue_stats.iter().map(|(name, stats)| {
        let age_s = stats.oldest_ms as f64 / 1e3;
        (vec![("queue", name.clone())], age_s)
    });
    out.gauges(
        "triarch_queue_oldest_seconds",
        "Time that the oldest task of a queue that could start has waited for a worker; 0 if there is none. Queues as in triarch_queue_tasks.",
        oldest.collect(),
    );
    decisions(app, out);
}

/// Returns the fullest queues by name, and the rest aggregated.
fn queues(table: &Table, now_ms: u64) -> Vec<(String, QueueStats)> {
    let age = |since_ms: u64| now_ms.saturating_sub(since_ms);
    let all: Vec<(&str, QueueStats)> = table
        .queues()
        .map(|queue| {
            let oldest_ms = queue.oldest_ready_ms.map_or(0, age);
            (queue.name, QueueStats::of(&queue.counts, oldest_ms))
        })
        .collect();
    fullest(all)
}

fn fullest(all: Vec<(&str, QueueStats)>) -> Vec<(String, QueueStats)> {
    let (mut named, mut rest): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(name, _)| *name != OTHERS);
    if named.len() > QUEUES_LISTED_MAX {
        // Equally full queues are ordered by name, so that the choice is stable.
        named.select_nth_unstable_by(QUEUES_LISTED_MAX, |(a, stats_a), (b, stats_b)| {
            stats_b.total().cmp(&stats_a.total()).then(a.cmp(b))
        });
        rest.extend(named.split_off(QUEUES_LISTED_MAX));
        named.sort_unstable_by_key(|(name, _)| *name);
    }
    if !rest.is_empty() {
        let mut together = QueueStats::default();
        rest.iter().for_each(|(_, stats)| together.add(stats));
        named.push((OTHERS, together));
    }
    named
        .into_iter()
        .map(|(name, stats)| (name.to_owned(), stats))
        .collect()
}

/// Adds the counters of decisions, which the leader counts.
fn decisions(app: &App, out: &mut MetricFamilies) {
    let counters = &app.table.counters;
    out.counter(
        "triarch_jobs_submitted",
        "Jobs created while this node led.",
        counters.jobs_submitted.get() as f64,
    );
    out.counters(
        "triarch_task_changes",
        "Changes of tasks to a state while this node led.",
        TaskState::ALL
            .into_iter()
            .map(|to| {
                let labels = vec![("to", to.as_str().to_owned())];
                (labels, counters.task_changes(to) as f64)
            })
            .collect(),
    );
    out.counter(
        "triarch_leases_granted",
        "Leases granted while this node led.",
        counters.leases_granted.get() as f64,
    );
    out.counters(
        "triarch_leases_expired",
        "Leases ended by this node as leader, and not by their workers, by reason.",
        LeaseExpiry::VARIANTS
            .iter()
            .map(|&why| {
                let labels = vec![("reason", why.into_str().to_owned())];
                (labels, counters.leases_expired(why) as f64)
            })
            .collect(),
    );
    out.counters(
        "triarch_results",
        "Results that workers reported to this node as leader, by verdict. Only accepted ones took effect.",
        ResultDecision::VARIANTS
            .iter()
            .map(|&decision| {
                let labels = vec![("verdict", decision.into_str().to_owned())];
                (labels, counters.results(decision) as f64)
            })
            .collect(),
    );
    out.counter(
        "triarch_workers_registered",
        "Workers that registered while this node led.",
        counters.workers_registered.get() as f64,
    );
    out.counter(
        "triarch_workers_lost",
        "Workers that sent no heartbeat for their whole lease while this node led.",
        counters.workers_lost.get() as f64,
    );
    let outcome = |word: &str| -> Labels { vec![("outcome", word.to_owned())] };
    out.counters(
        "triarch_schedule_ticks",
        "Ticks of schedules processed while this node led, by outcome: with a job submitted, or without.",
        vec![
            (outcome("job"), counters.ticks_fired.get() as f64),
            (outcome("passed"), counters.ticks_passed.get() as f64),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(queued: u64, oldest_ms: u64) -> QueueStats {
        QueueStats {
            states: [0, 0, queued, 0, 0],
            oldest_ms,
        }
    }

    #[test]
    fn the_fullest_queues_are_listed_by_name_and_the_rest_as_one() {
        let names: Vec<String> = (0..QUEUES_LISTED_MAX + 3)
            .map(|nth| format!("q{nth:04}"))
            .collect();
        let mut all: Vec<(&str, QueueStats)> = names
            .iter()
            .map(|name| (name.as_str(), stats(7, 1)))
            .collect();
        all[0].1 = stats(1, 90);
        all[1].1 = stats(2, 10);
        all[QUEUES_LISTED_MAX + 2].1 = stats(900, 5);
        all.push((OTHERS, stats(1_000, 3)));
        let listed = fullest(all);
        assert_eq!(listed.len(), QUEUES_LISTED_MAX + 1);
        let (last, together) = listed.last().expect("some");
        assert_eq!(last, OTHERS);
        // The rest: the two emptiest, one of many equally full ones, and the queue of that name.
        assert_eq!(
            (together.total(), together.oldest_ms),
            (1 + 2 + 7 + 1_000, 90)
        );
        assert!(
            listed
                .iter()
                .any(|(name, _)| *name == names[QUEUES_LISTED_MAX + 2])
        );
        assert!(
            listed
                .iter()
                .all(|(name, _)| *name != names[QUEUES_LISTED_MAX + 1])
        );
    }

    #[test]
    fn all_queues_are_listed_by_name_below_the_bound() {
        let listed = fullest(vec![("a", stats(0, 0)), ("b", stats(1, 1))]);
        let names: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}

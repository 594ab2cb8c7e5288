//! Model of queue settings, and of the limits of queues and concurrency keys.

use triarch_table::Reply;
use triarch_table::command::reply::Refusal;
use triarch_table::command::{NewTask, QueueChange};
use triarch_table::records::queue::AGEING_MS;
use triarch_table::types::queue_options::QueueSettings;
use triarch_table::types::state::TaskState;

use super::{ApplyResult, Model, ModelTask, invalid};

/// Service counted for one start of a queue of weight 1.
const SHARE: u64 = 1 << 24;

#[derive(Debug, Clone, Default)]
pub(super) struct ModelQueue {
    pub settings: QueueSettings,
    pub served: u64,
    /// The number of its tasks that have succeeded.
    pub succeeded: u64,
    /// Start times of its tasks, since its rate was set.
    pub starts_ms: Vec<u64>,
    /// When its bucket would be full again by the starts before the time was set back, in Unix ns.
    pub full_ns: u64,
}

impl ModelQueue {
    /// Counts the start of a task at this virtual time; returns the virtual time of the start.
    pub fn start(&mut self, virtual_time: u64, now_ms: u64) -> u64 {
        let stood = self.served.max(virtual_time);
        self.served = stood + SHARE / u64::from(self.settings.weight);
        if self.settings.rate.is_some() {
            self.starts_ms.push(now_ms);
        }
        stood
    }

    /// Returns when its rate lets the next task start, in Unix ns. From any start on, the number of starts never
    /// exceeds the burst plus what the rate has added since.
    pub fn next_start_ns(&self) -> u64 {
        let Some(rate) = self.settings.rate else {
            return 0;
        };
        let interval_ns = 1_000_000_000_000 / rate.per_s_milli;
        let burst_ns = (u64::from(rate.burst) - 1) * interval_ns;
        self.full_again_ns(interval_ns).saturating_sub(burst_ns)
    }

    /// Returns when its bucket is full again, in Unix ns.
    pub fn full_again_ns(&self, interval_ns: u64) -> u64 {
        let windows = self.starts_ms.iter().rev().zip(1..);
        let windows = windows
            .map(|(from_ms, starts): (&u64, u64)| from_ms * 1_000_000 + starts * interval_ns);
        let before = match self.full_ns {
            0 => 0,
            full_ns => full_ns + self.starts_ms.len() as u64 * interval_ns,
        };
        windows.max().unwrap_or(0).max(before)
    }

    pub fn rate_lets(&self, now_ms: u64) -> bool {
        self.next_start_ns() <= now_ms * 1_000_000
    }
}

impl Model {
    pub(super) fn change_queue(&mut self, name: &str, change: &QueueChange) -> ApplyResult {
        let rate = change.rate.flatten();
        let wrong = [
            ("queue", name.is_empty() || name.len() > 200),
            ("weight", change.weight == Some(0)),
            ("rate_per_s", rate.is_some_and(|rate| rate.per_s_milli == 0)),
            ("burst", rate.is_some_and(|rate| rate.burst == 0)),
        ];
        if let Some((field, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
            return Err(invalid(*field));
        }
        self.check_new_queues(&[name])?;
        let queue = self.queues.entry(name.to_owned()).or_default();
        if change.rate.is_some_and(|rate| rate != queue.settings.rate) {
            queue.starts_ms.clear();
            queue.full_ns = 0;
        }
        let settings = &mut queue.settings;
        *settings = QueueSettings {
            paused: change.paused.unwrap_or(settings.paused),
            max_running: change.max_running.unwrap_or(settings.max_running),
            rate: change.rate.unwrap_or(settings.rate),
            max_depth: change.max_depth.unwrap_or(settings.max_depth),
            weight: change.weight.unwrap_or(settings.weight),
            placement: change.placement.unwrap_or(settings.placement),
            retain_ms: change.retain_ms.unwrap_or(settings.retain_ms),
            retain_jobs: change.retain_jobs.unwrap_or(settings.retain_jobs),
        };
        Ok(Reply::Done { tasks: 0 })
    }

    /// Drops queues that no task names and that have no settings of their own.
    pub(super) fn drop_idle_queues(&mut self) {
        let tasks = &self.tasks;
        self.queues.retain(|name, queue| {
            queue.settings != QueueSettings::default()
                || tasks.values().any(|task| task.new.queue == *name)
        });
    }

    pub(super) fn check_new_queues(&self, names: &[&str]) -> Result<(), Refusal> {
        let mut new = names.to_vec();
        new.retain(|name| !self.queues.contains_key(*name));
        new.sort_unstable();
        new.dedup();
        let bound = self.limits.queues_max;
        if !new.is_empty() && (self.queues.len() + new.len()) as u64 > bound {
            return Err(Refusal::TableFull {
                what: "queues".into(),
                bound,
            });
        }
        Ok(())
    }

    /// Checks that there is room for these tasks, which do not run.
    pub(super) fn check_queues(&self, new: &[&NewTask]) -> Result<(), Refusal> {
        let mut names: Vec<&str> = new.iter().map(|task| &*task.queue).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let of_queue = new.iter().copied().filter(|task| task.queue == name);
            self.check_queue(name, &of_queue.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn check_queue(&self, queue: &str, new: &[&NewTask]) -> Result<(), Refusal> {
        let unfinished = self
            .tasks
            .values()
            .filter(|task| task.new.queue == queue && !task.state.is_terminal());
        let depth = unfinished
            .clone()
            .filter(|task| task.state != TaskState::Running)
            .count() as u64;
        let own = self.queues.get(queue).and_then(|it| it.settings.max_depth);
        let max_depth = own.unwrap_or(u64::MAX).min(self.limits.queue_depth_max);
        if depth + new.len() as u64 > max_depth {
            return Err(Refusal::QueueFull {
                queue: queue.into(),
                depth,
                max_depth,
            });
        }
        let mut classes: Vec<_> = unfinished
            .map(|task| (&task.new.kind, &task.new.requires))
            .collect();
        classes.sort_unstable();
        classes.dedup();
        let before = classes.len();
        classes.extend(new.iter().map(|task| (&task.kind, &task.requires)));
        classes.sort_unstable();
        classes.dedup();
        let bound = u64::from(self.limits.classes_per_queue_max);
        if classes.len() > before && classes.len() as u64 > bound {
            let what = format!("different combinations of kind and requirements in queue {queue}");
            return Err(Refusal::TableFull { what, bound });
        }
        Ok(())
    }

    /// Returns how many more tasks of a queue may run at once.
    pub(super) fn queue_room(&self, queue: &str) -> u64 {
        let runs = |task: &&ModelTask| task.state == TaskState::Running && task.new.queue == queue;
        let running = self.tasks.values().filter(runs).count() as u64;
        let max = self.queues[queue].settings.max_running;
        max.map_or(u64::MAX, |max| u64::from(max).saturating_sub(running))
    }

    /// Returns how many more tasks of a concurrency key may run at once.
    pub(super) fn key_room(&self, key: &str) -> u64 {
        let of_key = self.tasks.values().filter_map(|task| {
            let concurrency = task.new.concurrency.as_ref()?;
            (*concurrency.key == *key).then_some((task.state, concurrency.limit))
        });
        let ready_or_running =
            of_key.filter(|(state, _)| [TaskState::Queued, TaskState::Running].contains(state));
        let limit = ready_or_running.clone().map(|(_, limit)| limit).min();
        let running = ready_or_running
            .filter(|(state, _)| *state == TaskState::Running)
            .count() as u64;
        limit.map_or(u64::MAX, |limit| u64::from(limit).saturating_sub(running))
    }

    /// Returns the ready tasks that their keys let start, in start order. The order is the time at which they became
    /// ready, plus [`AGEING_MS`] for each step of priority below the highest.
    pub(super) fn in_line(&self) -> Vec<&ModelTask> {
        let queued = |task: &&ModelTask| task.state == TaskState::Queued;
        let mut line: Vec<&ModelTask> = self.tasks.values().filter(queued).collect();
        line.sort_by_key(|task| {
            let handicap_ms = u64::from(9 - task.new.priority) * AGEING_MS;
            (task.since_ms + handicap_ms, task.position)
        });
        let mut capacities = std::collections::BTreeMap::new();
        line.retain(|task| {
            let Some(concurrency) = &task.new.concurrency else {
                return true;
            };
            let key = &concurrency.key;
            let capacity = capacities
                .entry(key.clone())
                .or_insert_with(|| self.key_room(key));
            let fits = *capacity > 0;
            *capacity = capacity.saturating_sub(1);
            fits
        });
        line
    }
}

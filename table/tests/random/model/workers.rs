//! Model of worker registrations, exits and quarantine.

use std::collections::BTreeSet;

use triarch_table::command::RegisterWorker;
use triarch_table::command::reply::Refusal;
use triarch_table::types::state::WorkerState;
use triarch_table::{Reply, TaskId, WorkerId};

use super::attempts::Retry;
use super::{ApplyResult, Model, ModelWorker, invalid};

impl Model {
    pub(super) fn register(&mut self, register: &RegisterWorker) -> ApplyResult {
        let wrong = [
            ("name", register.name.len() > 200),
            ("kinds", register.kinds.is_empty()),
            ("slots", register.slots == 0),
        ];
        if let Some((field, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
            return Err(invalid(*field));
        }
        let present = self
            .workers
            .values()
            .filter(|worker| worker.state.is_present());
        if let Some(worker) = present
            .clone()
            .find(|worker| worker.is.name == register.name)
        {
            return Err(Refusal::WorkerNameTaken { worker: worker.id });
        }
        let bound = u64::from(self.limits.workers_max);
        if present.count() as u64 >= bound {
            return Err(Refusal::TableFull {
                what: "workers".into(),
                bound,
            });
        }
        let id = WorkerId::at(self.index, self.made[2]);
        self.made[2] += 1;
        let worker = ModelWorker {
            id,
            is: register.clone(),
            state: WorkerState::Live,
            streak: Vec::new(),
            until_ms: 0,
            round: 0,
            gone_ms: 0,
        };
        self.workers.insert(id, worker);
        Ok(Reply::Registered { worker: id })
    }

    pub(super) fn drain(&mut self, id: WorkerId) -> ApplyResult {
        let worker = self.workers.get_mut(&id);
        let worker = worker.filter(|worker| worker.state.is_present());
        worker.ok_or(Refusal::UnknownWorker(id))?.state = WorkerState::Draining;
        Ok(Reply::Done { tasks: 0 })
    }

    pub(super) fn pause(&mut self, id: WorkerId) -> ApplyResult {
        self.present_worker(id)?.state = WorkerState::Paused;
        Ok(Reply::Done { tasks: 0 })
    }

    pub(super) fn resume(&mut self, id: WorkerId) -> ApplyResult {
        let worker = self.present_worker(id)?;
        if worker.state != WorkerState::Live {
            worker.state = WorkerState::Live;
            worker.streak.clear();
        }
        Ok(Reply::Done { tasks: 0 })
    }

    /// Returns a present worker that is not draining.
    fn present_worker(&mut self, id: WorkerId) -> Result<&mut ModelWorker, Refusal> {
        let worker = self.workers.get_mut(&id);
        let worker = worker.filter(|worker| worker.state.is_present());
        match worker.ok_or(Refusal::UnknownWorker(id))? {
            worker if worker.state == WorkerState::Draining => Err(Refusal::WorkerDraining(id)),
            worker => Ok(worker),
        }
    }

    pub(super) fn leave(&mut self, id: WorkerId) -> ApplyResult {
        match self.workers.get(&id).map(|worker| worker.state) {
            Some(WorkerState::Left) => Ok(Reply::Done { tasks: 0 }),
            Some(state) if state.is_present() => Ok(Reply::Done {
                tasks: self.remove_worker(id, WorkerState::Left, "returned"),
            }),
            _ => Err(Refusal::UnknownWorker(id)),
        }
    }

    pub(super) fn lose(&mut self, ids: &[WorkerId]) -> Reply {
        let mut tasks = 0;
        for &id in ids {
            if self
                .workers
                .get(&id)
                .is_some_and(|worker| worker.state.is_present())
            {
                tasks += self.remove_worker(id, WorkerState::Lost, "lost");
            }
        }
        Reply::Done { tasks }
    }

    pub(super) fn remove_worker(
        &mut self,
        id: WorkerId,
        state: WorkerState,
        word: &'static str,
    ) -> u64 {
        let mut ended = 0;
        while let Some(task) = self.held_by(id).first().copied() {
            self.end(task, word, None, Retry::AfterBackoff);
            ended += 1;
        }
        let worker = self.workers.get_mut(&id).expect("found");
        (worker.state, worker.gone_ms) = (state, self.now_ms);
        worker.streak.clear();
        if self.gone().len() as u64 > self.limits.gone_workers_max {
            self.workers.remove(&self.gone()[0].1);
        }
        ended
    }

    pub(super) fn gone(&self) -> Vec<(u64, WorkerId)> {
        let gone = self
            .workers
            .values()
            .filter(|worker| !worker.state.is_present());
        let mut gone: Vec<_> = gone.map(|worker| (worker.gone_ms, worker.id)).collect();
        gone.sort();
        gone
    }

    /// Records that an attempt succeeded on the worker.
    pub(super) fn record_success(&mut self, task: TaskId, id: WorkerId) {
        let name = &self.tasks[&task].new.queue;
        self.queues.get_mut(name).expect("of a task").succeeded += 1;
        let worker = self.workers.get_mut(&id).expect("it ran");
        worker.streak.clear();
        if worker.state == WorkerState::Probation {
            worker.state = WorkerState::Live;
        }
    }

    /// Records that an attempt failed on the worker. The failure counts against it, unless the task has failed on other
    /// workers too; then it no longer counts against those either.
    pub(super) fn record_failure(&mut self, id: TaskId, by: WorkerId) {
        let task = &self.tasks[&id];
        let failed = task
            .history
            .iter()
            .filter(|(_, _, word, _)| ["failed", "timed_out", "lease_expired"].contains(word));
        let elsewhere: Vec<WorkerId> = failed.map(|it| it.1).filter(|it| *it != by).collect();
        for worker in &elsewhere {
            if let Some(worker) = self.workers.get_mut(worker) {
                worker.streak.retain(|(task, ..)| *task != id);
            }
        }
        if !elsewhere.is_empty() {
            return;
        }
        let (name, now_ms) = (task.new.queue.clone(), self.now_ms);
        let succeeded = self.queues[&name].succeeded;
        let worker = self.workers.get_mut(&by).expect("it ran");
        if worker.streak.iter().all(|(task, ..)| *task != id) {
            worker.streak.push((id, name, succeeded));
            if worker.streak.len() > 5 {
                worker.streak.remove(1);
            }
        }
        let since = |name: &String| {
            let mut of_queue = worker.streak.iter().filter(|(_, queue, _)| queue == name);
            let then = of_queue.next().map_or(0, |(_, _, succeeded)| *succeeded);
            let now = self.queues.get(name).map_or(0, |queue| queue.succeeded);
            now.saturating_sub(then)
        };
        let queues: BTreeSet<&String> = worker.streak.iter().map(|(_, queue, _)| queue).collect();
        let elsewhere: u64 = queues.into_iter().map(since).sum();
        let outlier = worker.streak.len() == 5 && elsewhere >= 10;
        worker.round = match worker.state {
            WorkerState::Live if outlier => 0,
            WorkerState::Probation => worker.round + 1,
            _ => return,
        };
        worker.state = WorkerState::Quarantined;
        worker.until_ms = now_ms + (30_000 << worker.round.min(10)).min(960_000);
    }

    pub(super) fn end_quarantines(&mut self) {
        let over = |worker: &&mut ModelWorker| {
            worker.state == WorkerState::Quarantined && worker.until_ms <= self.now_ms
        };
        for worker in self.workers.values_mut().filter(over) {
            worker.state = WorkerState::Probation;
        }
    }
}

impl ModelWorker {
    /// Returns how many tasks it may run at once.
    pub(super) fn usable_slots(&self) -> u64 {
        match self.state {
            WorkerState::Live => self.is.slots.into(),
            WorkerState::Probation => 1,
            _ => 0,
        }
    }
}

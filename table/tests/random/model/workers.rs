//! Registrations, and how the time of a worker ends.

use triarch_table::command::RegisterWorker;
use triarch_table::model::WorkerState;
use triarch_table::reply::Refusal;
use triarch_table::{Reply, WorkerId};

use super::{Model, ModelWorker, Ruling};

impl Model {
    pub(super) fn register(&mut self, register: &RegisterWorker) -> Ruling {
        let wrong = [
            ("name", register.name.len() > 200),
            ("kinds", register.kinds.is_empty()),
            ("slots", register.slots == 0),
        ];
        if let Some((field, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
            return Err(Refusal::Invalid {
                field: field.to_string(),
                problem: String::new(),
            });
        }
        let present = self.workers.values().filter(|worker| worker.is_present());
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
            gone_ms: 0,
        };
        self.workers.insert(id, worker);
        Ok(Reply::Registered { worker: id })
    }

    pub(super) fn drain(&mut self, id: WorkerId) -> Ruling {
        let worker = self
            .workers
            .get_mut(&id)
            .filter(|worker| worker.is_present());
        worker.ok_or(Refusal::UnknownWorker(id))?.state = WorkerState::Draining;
        Ok(Reply::Done { tasks: 0 })
    }

    pub(super) fn leave(&mut self, id: WorkerId) -> Ruling {
        match self.workers.get(&id).map(|worker| worker.state) {
            Some(WorkerState::Left) => Ok(Reply::Done { tasks: 0 }),
            Some(
                WorkerState::Live
                | WorkerState::Paused
                | WorkerState::Quarantined
                | WorkerState::Probation
                | WorkerState::Draining,
            ) => Ok(Reply::Done {
                tasks: self.end_worker(id, WorkerState::Left, "returned"),
            }),
            Some(WorkerState::Lost) | None => Err(Refusal::UnknownWorker(id)),
        }
    }

    pub(super) fn lose(&mut self, ids: &[WorkerId]) -> Reply {
        let mut tasks = 0;
        for &id in ids {
            if self
                .workers
                .get(&id)
                .is_some_and(|worker| worker.is_present())
            {
                tasks += self.end_worker(id, WorkerState::Lost, "lost");
            }
        }
        Reply::Done { tasks }
    }

    pub(super) fn end_worker(
        &mut self,
        id: WorkerId,
        state: WorkerState,
        word: &'static str,
    ) -> u64 {
        let mut ended = 0;
        while let Some(task) = self.held_by(id).first().copied() {
            self.end(task, word, None, true);
            ended += 1;
        }
        let worker = self.workers.get_mut(&id).expect("found");
        (worker.state, worker.gone_ms) = (state, self.now_ms);
        if self.gone().len() as u64 > self.limits.gone_workers_max {
            self.workers.remove(&self.gone()[0].1);
        }
        ended
    }

    pub(super) fn gone(&self) -> Vec<(u64, WorkerId)> {
        let gone = self.workers.values().filter(|worker| !worker.is_present());
        let mut gone: Vec<_> = gone.map(|worker| (worker.gone_ms, worker.id)).collect();
        gone.sort();
        gone
    }
}

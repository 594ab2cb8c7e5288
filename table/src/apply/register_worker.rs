//! Makes a worker known. Each registration is a new worker with a new id; a name belongs to one live worker at a time.

use std::sync::Arc;

use super::{Entry, Ruling};
use crate::command::RegisterWorker;
use crate::command::event::Event;
use crate::command::reply::{Refusal, Reply};
use crate::command::validate::request_id_reused;
use crate::records::dedup::Answer;
use crate::records::worker::{Profile, Worker, WorkerLife};
use crate::rules::quarantine::Streak;
use crate::table::Table;
use crate::types::ids::{IDS_PER_ENTRY_MAX, WorkerId};

impl Table {
    pub(super) fn register_worker(
        &mut self,
        entry: &mut Entry,
        register: RegisterWorker,
        events: &mut Vec<Event>,
    ) -> Ruling {
        if let Some(answered) = register
            .request_id
            .as_deref()
            .and_then(|request| self.answers.get(request))
        {
            return match &answered.answer {
                Answer::Registered { name, worker } if **name == *register.name => {
                    Ok(Reply::Registered { worker: *worker })
                }
                Answer::Registered { .. } | Answer::Submitted { .. } | Answer::Retried { .. } => {
                    Err(request_id_reused())
                }
            };
        }
        self.limits.check_registration(&register)?;
        if let Some(&worker) = self.index.names.get(&*register.name) {
            return Err(Refusal::WorkerNameTaken { worker });
        }
        let bound = u64::from(self.limits.workers_max);
        if self.index.names.len() as u64 >= bound {
            return Err(Refusal::TableFull {
                what: "workers".to_owned(),
                bound,
            });
        }
        if entry.workers == IDS_PER_ENTRY_MAX {
            let what = "registrations in one log entry".to_owned();
            return Err(Refusal::TableFull {
                what,
                bound: IDS_PER_ENTRY_MAX,
            });
        }

        let id = WorkerId::at(entry.index, entry.workers);
        entry.workers += 1;
        let name: Arc<str> = Arc::from(register.name);
        let profile = self.index.profiles.take(Profile {
            queues: register.queues.into_iter().collect(),
            kinds: register.kinds.into_iter().collect(),
            labels: register.labels,
            resources: register.resources,
        });
        let (slots, registered_ms) = (register.slots, self.now_ms);
        let worker = Worker {
            id,
            name: name.clone(),
            profile,
            slots,
            registered_ms,
            life: WorkerLife::Live,
            streak: Streak::default(),
        };
        self.index.add_worker(&worker);
        self.workers.push(worker);
        events.push(Event::WorkerRegistered { worker: id });
        self.remember(register.request_id, Answer::Registered { name, worker: id });
        Ok(Reply::Registered { worker: id })
    }
}

//! Worker registration. Each registration is a new worker with a new id; a name belongs to one live worker at a time.

use std::sync::Arc;

use super::id_allocator::IdAllocator;
use crate::command::RegisterWorker;
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::validate::request_id_reused;
use crate::records::dedup::RecordedReply;
use crate::records::worker::{FailureStreak, Profile, Worker, WorkerLife};
use crate::table::Table;
use crate::types::ids::{IDS_PER_ENTRY_MAX, WorkerId};

impl Table {
    pub(super) fn register_worker(
        &mut self,
        ids: &mut IdAllocator,
        register: RegisterWorker,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        if let Some(answered) = register
            .request_id
            .as_deref()
            .and_then(|request| self.answered_requests.get(request))
        {
            return match &answered.reply {
                RecordedReply::Registered { name, worker } if **name == *register.name => {
                    Ok(Reply::Registered { worker: *worker })
                }
                RecordedReply::Registered { .. }
                | RecordedReply::Submitted { .. }
                | RecordedReply::Retried { .. } => Err(request_id_reused()),
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
        if ids.workers == IDS_PER_ENTRY_MAX {
            let what = "registrations in one log entry".to_owned();
            return Err(Refusal::TableFull {
                what,
                bound: IDS_PER_ENTRY_MAX,
            });
        }

        let id = WorkerId::at(ids.index, ids.workers);
        ids.workers += 1;
        let name: Arc<str> = Arc::from(register.name);
        let profile = self.index.profiles.acquire(Profile {
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
            streak: FailureStreak::default(),
        };
        self.index.add_worker(&worker);
        self.workers.push(worker);
        events.push(Event::WorkerRegistered { worker: id });
        self.record_reply(
            register.request_id,
            RecordedReply::Registered { name, worker: id },
        );
        Ok(Reply::Registered { worker: id })
    }
}

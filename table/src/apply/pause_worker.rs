//! Pause and resume of a present worker. A paused worker keeps its leases and gets no new ones.

use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::records::worker::WorkerLife;
use crate::table::Table;
use crate::types::ids::WorkerId;

impl Table {
    /// Pauses a worker: it keeps its leases and gets no new ones until it is resumed.
    pub(super) fn pause_worker(&mut self, id: WorkerId, events: &mut Vec<Event>) -> ApplyResult {
        let worker = self.workers.get(id).ok_or(Refusal::UnknownWorker(id))?;
        match worker.life {
            WorkerLife::Live | WorkerLife::Quarantined { .. } | WorkerLife::Probation { .. } => {
                self.change_worker(id, WorkerLife::Paused, events);
                Ok(Reply::Done { tasks: 0 })
            }
            WorkerLife::Paused => Ok(Reply::Done { tasks: 0 }),
            WorkerLife::Draining => Err(Refusal::WorkerDraining(id)),
            WorkerLife::Lost { .. } | WorkerLife::Left { .. } => Err(Refusal::UnknownWorker(id)),
        }
    }

    /// Resumes a worker: ends a pause, a quarantine or a probation.
    pub(super) fn resume_worker(&mut self, id: WorkerId, events: &mut Vec<Event>) -> ApplyResult {
        let worker = self.workers.get(id).ok_or(Refusal::UnknownWorker(id))?;
        match worker.life {
            WorkerLife::Paused | WorkerLife::Quarantined { .. } | WorkerLife::Probation { .. } => {
                self.change_worker(id, WorkerLife::Live, events);
                Ok(Reply::Done { tasks: 0 })
            }
            WorkerLife::Live => Ok(Reply::Done { tasks: 0 }),
            WorkerLife::Draining => Err(Refusal::WorkerDraining(id)),
            WorkerLife::Lost { .. } | WorkerLife::Left { .. } => Err(Refusal::UnknownWorker(id)),
        }
    }
}

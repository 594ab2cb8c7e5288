//! Exit of a worker: it drains, it leaves, or it is lost.

use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::records::worker::WorkerLife;
use crate::rules::attempt::AttemptOutcome;
use crate::table::Table;
use crate::types::ids::WorkerId;

impl Table {
    pub(super) fn drain_worker(&mut self, id: WorkerId, events: &mut Vec<Event>) -> ApplyResult {
        let worker = self.workers.get(id).ok_or(Refusal::UnknownWorker(id))?;
        match worker.life {
            WorkerLife::Live
            | WorkerLife::Paused
            | WorkerLife::Quarantined { .. }
            | WorkerLife::Probation { .. } => {
                self.change_worker(id, WorkerLife::Draining, events);
                Ok(Reply::Done { tasks: 0 })
            }
            WorkerLife::Draining => Ok(Reply::Done { tasks: 0 }),
            WorkerLife::Lost { .. } | WorkerLife::Left { .. } => Err(Refusal::UnknownWorker(id)),
        }
    }

    /// Removes a worker that leaves. Its leases are returned: their tasks keep their positions, and nothing is counted.
    pub(super) fn leave_worker(&mut self, id: WorkerId, events: &mut Vec<Event>) -> ApplyResult {
        let worker = self.workers.get(id).ok_or(Refusal::UnknownWorker(id))?;
        match worker.life {
            WorkerLife::Live
            | WorkerLife::Paused
            | WorkerLife::Quarantined { .. }
            | WorkerLife::Probation { .. }
            | WorkerLife::Draining => {
                let left = WorkerLife::Left { at_ms: self.now_ms };
                Ok(Reply::Done {
                    tasks: self.remove_worker(id, left, events),
                })
            }
            WorkerLife::Left { .. } => Ok(Reply::Done { tasks: 0 }),
            WorkerLife::Lost { .. } => Err(Refusal::UnknownWorker(id)),
        }
    }

    /// Removes lost workers. Their attempts are lost, which is counted apart from failures.
    pub(super) fn lose_workers(&mut self, ids: &[WorkerId], events: &mut Vec<Event>) -> Reply {
        let mut tasks = 0;
        for &id in ids {
            if self.index.worker_groups.usage().contains_key(&id) {
                tasks += self.remove_worker(id, WorkerLife::Lost { at_ms: self.now_ms }, events);
            }
        }
        Reply::Done { tasks }
    }

    pub(super) fn remove_worker(
        &mut self,
        id: WorkerId,
        life: WorkerLife,
        events: &mut Vec<Event>,
    ) -> u64 {
        let lost = matches!(life, WorkerLife::Lost { .. });
        events.push(Event::WorkerGone { worker: id, lost });
        let held: Vec<_> = self.leases_of(id).map(|lease| lease.task).collect();
        let mut ended = 0;
        for task in held {
            // The failure of one task may have cancelled another one of the same job.
            if self.lease(task).is_some() {
                self.end_attempt(
                    task,
                    if lost {
                        AttemptOutcome::Lost
                    } else {
                        AttemptOutcome::Returned
                    },
                    events,
                );
                ended += 1;
            }
        }
        self.mark_worker_gone(id, life);
        ended
    }
}

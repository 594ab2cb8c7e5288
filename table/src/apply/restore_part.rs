//! Arrival of one part of a backup. The last part replaces this table by that of the backup.
//!
//! Workers of the other cluster do not work for this one. In the restored table they have left, and their tasks are
//! queued again. Whether such an attempt succeeded after the backup was taken cannot be known here. Like every lost
//! attempt, it runs again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::id_allocator::IdAllocator;
use crate::command::RestorePart;
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::validate::invalid;
use crate::records::pending_restore::{
    ID_OFFSET_MAX, ID_OFFSET_STEP, PART_BYTES_MAX, PARTS_MAX, PendingRestore,
};
use crate::records::worker::WorkerLife;
use crate::table::Table;
use crate::types::ids::WorkerId;
use crate::types::queue_options::QueueSettings;

impl Table {
    pub(super) fn restore_part(
        &mut self,
        ids: &mut IdAllocator,
        received: RestorePart,
        of_level_1: bool,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        if self.restored.as_deref() == Some(&*received.backup) {
            return Ok(self.restored_reply());
        }
        if let Some(what) = self.contents() {
            return Err(Refusal::NotEmpty { what });
        }
        check(&received)?;
        let same = |pending_restore: &PendingRestore| {
            *pending_restore.backup == *received.backup && pending_restore.parts == received.parts
        };
        // A part of another backup discards the restore before it.
        if !self.pending_restore.as_ref().is_some_and(same) {
            self.pending_restore = None;
        }
        let pending_restore = self.pending_restore.get_or_insert_with(|| PendingRestore {
            backup: Arc::from(&*received.backup),
            parts: received.parts,
            touched_ms: 0,
            received: BTreeMap::new(),
        });
        pending_restore.touched_ms = self.now_ms;
        pending_restore
            .received
            .insert(received.part, received.bytes);
        if !pending_restore.is_whole() {
            return Ok(Reply::Restoring {
                received: pending_restore.received.len() as u32,
                parts: pending_restore.parts,
            });
        }
        let read = Table::read_any(&mut pending_restore.reader());
        self.pending_restore = None;
        let read = read.map_err(|problem| Refusal::BackupDamaged {
            problem: problem.to_string(),
        })?;
        // Programs of level 1 refuse it, and every replica must decide alike.
        if of_level_1 && !read.is_of_level_1 {
            let problem = "it has parts that need level 2, and this cluster has level 1: run triarch cluster upgrade, then \
                           restore it again";
            return Err(Refusal::BackupDamaged {
                problem: problem.to_owned(),
            });
        }
        let restored = read.table;
        let id_offset = restored
            .id_index()
            .max(self.id_index())
            .saturating_add(ID_OFFSET_STEP);
        if id_offset > ID_OFFSET_MAX {
            return Err(Refusal::BackupDamaged {
                problem: format!("ids would go on from {id_offset}, beyond {ID_OFFSET_MAX}"),
            });
        }
        self.become_restored(restored, id_offset, &received.backup, events);
        ids.restart_at(self.id_index());
        Ok(self.restored_reply())
    }

    /// Describes the contents of the table that a backup would have to replace; `None` if it holds nothing.
    fn contents(&self) -> Option<String> {
        let several = |count: usize, one: &str| {
            let s = if count == 1 { "" } else { "s" };
            (count > 0).then(|| format!("{count} {one}{s}"))
        };
        let set =
            |queue: &&crate::records::queue::Queue| queue.settings != QueueSettings::default();
        several(self.jobs.len(), "job")
            .or_else(|| several(self.staged_jobs.len(), "unfinished large submission"))
            .or_else(|| several(self.schedules.iter().count(), "schedule"))
            .or_else(|| {
                several(
                    self.queues.values().filter(set).count(),
                    "queue with settings",
                )
            })
    }

    fn become_restored(
        &mut self,
        mut restored: Table,
        id_offset: u64,
        backup: &str,
        events: &mut Vec<Event>,
    ) {
        restored.id_offset = id_offset;
        restored.last_index = self.last_index;
        restored.now_ms = restored.now_ms.max(self.now_ms);
        restored.limits = self.limits.clone();
        restored.restored = Some(Arc::from(backup));
        restored.pending_restore = None;
        // The workers registered here must register again.
        for &worker in self.index.worker_groups.usage().keys() {
            events.push(Event::WorkerGone {
                worker,
                lost: false,
            });
        }
        *self = restored;
        let present: Vec<WorkerId> = self.index.worker_groups.usage().keys().copied().collect();
        for worker in present {
            let left = WorkerLife::Left { at_ms: self.now_ms };
            self.remove_worker(worker, left, events);
        }
        events.push(Event::Restored);
    }

    fn restored_reply(&self) -> Reply {
        Reply::Restored {
            jobs: self.jobs.len() as u64,
            tasks: self.tasks.len() as u64,
        }
    }
}

fn check(received: &RestorePart) -> Result<(), Refusal> {
    if !(1..=PARTS_MAX).contains(&received.parts) {
        return Err(invalid("parts", format!("must be 1 to {PARTS_MAX}")));
    }
    if !(1..=received.parts).contains(&received.part) {
        return Err(invalid(
            "part",
            format!("must be 1 to {}, the number of parts", received.parts),
        ));
    }
    if received.bytes.is_empty() || received.bytes.len() > PART_BYTES_MAX {
        return Err(invalid(
            "body",
            format!("a part has 1 to {PART_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::RestorePart;
    use crate::command::reply::{Refusal, Reply};
    use crate::records::pending_restore::{ID_OFFSET_MAX, ID_OFFSET_STEP};
    use crate::{Command, Limits, Stamp, Table};

    /// Restores the backup of a table with this id offset, and returns the reply.
    fn restored_from(id_offset: u64) -> Reply {
        let mut there = Table::new(Limits::default());
        there.id_offset = id_offset;
        let mut bytes = Vec::new();
        there.freeze().write(&mut bytes).expect("memory");
        let part = RestorePart {
            backup: "b".into(),
            part: 1,
            parts: 1,
            bytes: bytes.into(),
        };
        let mut here = Table::new(Limits::default());
        let stamp = Stamp {
            index: 1,
            now_ms: 1,
        };
        let mut replies = here.apply(stamp, vec![Command::RestorePart(part)], &mut Vec::new());
        here.check_invariants();
        replies.remove(0)
    }

    #[test]
    fn ids_never_run_out_of_what_they_are_made_of() {
        let restored = Reply::Restored { jobs: 0, tasks: 0 };
        assert_eq!(restored_from(0), restored);
        assert_eq!(restored_from(ID_OFFSET_MAX - ID_OFFSET_STEP), restored);
        for beyond in [ID_OFFSET_MAX - ID_OFFSET_STEP + 1, u64::MAX] {
            let reply = restored_from(beyond);
            let refused = matches!(reply, Reply::Refused(Refusal::BackupDamaged { .. }));
            assert!(refused, "{beyond}: {reply:?}");
        }
    }
}

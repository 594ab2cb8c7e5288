//! Takes in one part of a backup. The last one to come makes this table what the other one was.
//!
//! Nobody who worked for the other cluster works for this one: its workers have left, and what they ran is queued again.
//! That an attempt may have succeeded there after the backup was taken cannot be known here; like every attempt that is
//! lost, it runs again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Entry, Ruling};
use crate::command::RestorePart;
use crate::command::event::Event;
use crate::command::reply::{Refusal, Reply};
use crate::command::validate::invalid;
use crate::records::pending_restore::{BASE_MAX, LEAP, PART_BYTES_MAX, PARTS_MAX, Restoring};
use crate::records::queue::QueueSettings;
use crate::records::worker::WorkerLife;
use crate::table::Table;
use crate::types::ids::WorkerId;

impl Table {
    pub(super) fn restore_part(
        &mut self,
        entry: &mut Entry,
        came: RestorePart,
        events: &mut Vec<Event>,
    ) -> Ruling {
        if self.restored.as_deref() == Some(&*came.backup) {
            return Ok(self.told_restored());
        }
        if let Some(what) = self.contents() {
            return Err(Refusal::NotEmpty { what });
        }
        check(&came)?;
        let same = |restoring: &Restoring| {
            *restoring.backup == *came.backup && restoring.parts == came.parts
        };
        // Whoever begins with another backup has given up the one before.
        if !self.restoring.as_ref().is_some_and(same) {
            self.restoring = None;
        }
        let restoring = self.restoring.get_or_insert_with(|| Restoring {
            backup: Arc::from(&*came.backup),
            parts: came.parts,
            touched_ms: 0,
            received: BTreeMap::new(),
        });
        restoring.touched_ms = self.now_ms;
        restoring.received.insert(came.part, came.bytes);
        if !restoring.is_whole() {
            return Ok(Reply::Restoring {
                received: restoring.received.len() as u32,
                parts: restoring.parts,
            });
        }
        let read = Table::read(&mut restoring.reader());
        self.restoring = None;
        let restored = read.map_err(|problem| Refusal::BackupDamaged {
            problem: problem.to_string(),
        })?;
        let base = restored.here().max(self.here()).saturating_add(LEAP);
        if base > BASE_MAX {
            return Err(Refusal::BackupDamaged {
                problem: format!("ids would go on from {base}, beyond {BASE_MAX}"),
            });
        }
        self.become_restored(restored, base, &came.backup, events);
        entry.begin_again_at(self.here());
        Ok(self.told_restored())
    }

    /// What is in the table that a backup would have to replace.
    fn contents(&self) -> Option<String> {
        let several = |count: usize, one: &str| {
            let s = if count == 1 { "" } else { "s" };
            (count > 0).then(|| format!("{count} {one}{s}"))
        };
        let set =
            |queue: &&crate::records::queue::Queue| queue.settings != QueueSettings::default();
        several(self.jobs.len(), "job")
            .or_else(|| several(self.staged.len(), "unfinished large submission"))
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
        base: u64,
        backup: &str,
        events: &mut Vec<Event>,
    ) {
        restored.base = base;
        restored.last_index = self.last_index;
        restored.now_ms = restored.now_ms.max(self.now_ms);
        restored.limits = self.limits.clone();
        restored.restored = Some(Arc::from(backup));
        restored.restoring = None;
        // Those who had registered here register again.
        for &worker in self.index.crews.holdings().keys() {
            events.push(Event::WorkerGone {
                worker,
                lost: false,
            });
        }
        *self = restored;
        let present: Vec<WorkerId> = self.index.crews.holdings().keys().copied().collect();
        for worker in present {
            let left = WorkerLife::Left { at_ms: self.now_ms };
            self.end_worker(worker, left, events);
        }
        events.push(Event::Restored);
    }

    fn told_restored(&self) -> Reply {
        Reply::Restored {
            jobs: self.jobs.len() as u64,
            tasks: self.tasks.len() as u64,
        }
    }
}

fn check(came: &RestorePart) -> Result<(), Refusal> {
    if !(1..=PARTS_MAX).contains(&came.parts) {
        return Err(invalid("parts", format!("must be 1 to {PARTS_MAX}")));
    }
    if !(1..=came.parts).contains(&came.part) {
        return Err(invalid(
            "part",
            format!("must be 1 to {}, the number of parts", came.parts),
        ));
    }
    if came.bytes.is_empty() || came.bytes.len() > PART_BYTES_MAX {
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
    use crate::records::pending_restore::{BASE_MAX, LEAP};
    use crate::{Command, Limits, Stamp, Table};

    /// What comes of restoring a table that counts from here.
    fn restored_from(base: u64) -> Reply {
        let mut there = Table::new(Limits::default());
        there.base = base;
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
        assert_eq!(restored_from(BASE_MAX - LEAP), restored);
        for beyond in [BASE_MAX - LEAP + 1, u64::MAX] {
            let reply = restored_from(beyond);
            let refused = matches!(reply, Reply::Refused(Refusal::BackupDamaged { .. }));
            assert!(refused, "{beyond}: {reply:?}");
        }
    }
}

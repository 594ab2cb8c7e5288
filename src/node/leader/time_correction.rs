//! Correction of the table's time, after most of the masters' clocks were ahead once: the leader's part of
//! `SetTimeBack`.
//!
//! Entries carry the leader's clock, and the table takes the greatest stamp. A late entry with an old stamp would undo
//! the correction. Therefore the leader sets its own clock back first, waits until no entry with an old stamp is in
//! flight, and proposes the command then. From the first step to the last the time of the table stands still.
//!
//! # Invariants
//!
//! - After a refusal the leader's clock goes on from the time of the table, so that time never stands still for good.
//! - After an unknown outcome it stays set back: either the command is in the log, or this leadership is over.

use std::sync::Arc;

use triarch_raft::{Level, Priority, ProposeError, ProposeOptions};
use triarch_table::command::reply::Refusal;
use triarch_table::command::{NextTick, SetTimeBack};
use triarch_table::{Command, Reply};

use super::clock::ClockDisagreement;
use super::term::LeaderTerm;
use crate::schedule_times::ScheduleTimes;

/// Lead of the table's time over every master's clock above which it may be set back.
pub const AHEAD_MIN_MS: u64 = 10_000;
/// Maximum tries while schedules are changed at the same time.
const TRIES_MAX: u32 = 5;

/// A correction that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeCorrection {
    /// Index of its log entry.
    pub index: u64,
    /// Time of the table before, in Unix ms.
    pub from_ms: u64,
    /// Time of the table since, in Unix ms.
    pub to_ms: u64,
}

/// Reason why the time was not corrected.
#[derive(Debug, thiserror::Error)]
pub enum TimeCorrectionError {
    /// The formats of the cluster do not have the command.
    #[error(
        "the time of the table is set back by a command of level {needed}, and this cluster is at level {level}; nothing was \
         done. Run `triarch cluster upgrade` once every master runs this version, then repeat"
    )]
    LevelTooLow {
        /// Level of the cluster.
        level: Level,
        /// Level that the command needs.
        needed: Level,
    },
    /// The clocks give no time that the table could be set to.
    #[error("{0}; nothing was done")]
    Clocks(#[from] ClockDisagreement),
    /// The table is not ahead.
    #[error(
        "the time of the table is {ahead_ms} ms ahead of the masters' clocks, and is set back only from {AHEAD_MIN_MS} ms on; \
         nothing was done. If it was ahead before, it has been set back already, or the clocks have caught up"
    )]
    NotAhead {
        /// Lead of the table over the latest of the clocks, in ms.
        ahead_ms: u64,
    },
    /// The times of a schedule cannot be computed.
    #[error(
        "this version cannot compute the ticks of schedule {schedule:?} ({problem}); nothing was done. Delete the schedule or \
         put it again, then repeat"
    )]
    Schedule {
        /// Name of the schedule.
        schedule: String,
        /// The problem with it.
        problem: String,
    },
    /// The table refused the command.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The command was not proposed, or its outcome is unknown.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl LeaderTerm {
    /// Sets the time of the table back to the clocks of all voters: of this node, which is `own`, and of the `others`. Goes
    /// on to its end if the caller goes away.
    ///
    /// # Errors
    ///
    /// Refused below level 2, unless all clocks are known and agree, and unless the table is ahead of them all.
    pub async fn correct_time(
        self: &Arc<Self>,
        own: u64,
        others: Vec<u64>,
    ) -> Result<TimeCorrection, TimeCorrectionError> {
        let lead = Arc::clone(self);
        let corrected = self
            .runtime
            .spawn(async move { lead.correct_time_alone(own, &others).await });
        match corrected.await {
            Ok(corrected) => corrected,
            Err(_) => Err(ProposeError::ShuttingDown.into()),
        }
    }

    async fn correct_time_alone(
        &self,
        own: u64,
        others: &[u64],
    ) -> Result<TimeCorrection, TimeCorrectionError> {
        let _alone = self.time_correction.write().await;
        let level = self.table.level();
        if level < Level::TWO {
            return Err(TimeCorrectionError::LevelTooLow {
                level,
                needed: Level::TWO,
            });
        }
        let latest_ms = self.clock.latest_of_all(own, others)?;
        let ahead_ms = self.table.read().now_ms().saturating_sub(latest_ms);
        if ahead_ms < AHEAD_MIN_MS {
            return Err(TimeCorrectionError::NotAhead { ahead_ms });
        }
        self.clock.set_back();
        let corrected = self.propose_correction().await;
        match &corrected {
            Ok(_) | Err(TimeCorrectionError::Propose(ProposeError::Unknown(_))) => {}
            Err(_) => self.clock.go_on_from(self.table.read().now_ms()),
        }
        corrected
    }

    async fn propose_correction(&self) -> Result<TimeCorrection, TimeCorrectionError> {
        self.node.settle().await?;
        let options = ProposeOptions {
            priority: Priority::High,
            term: Some(self.term),
            ..ProposeOptions::default()
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let to_ms = self.clock.now_ms();
            let ticks = self.ticks_after(to_ms)?;
            let from_ms = self.table.read().now_ms();
            let command = Command::SetTimeBack(SetTimeBack { to_ms, ticks });
            let command = self.table.encode(&command);
            let committed = self.node.propose(command, options).await?;
            match committed.reply {
                Reply::Refused(Refusal::ScheduleReplaced(_)) if tries < TRIES_MAX => {}
                Reply::Refused(refusal) => return Err(refusal.into()),
                _ => {
                    return Ok(TimeCorrection {
                        index: committed.index,
                        from_ms,
                        to_ms,
                    });
                }
            }
        }
    }

    /// Returns the first tick after this time of every schedule that is not paused.
    fn ticks_after(&self, after_ms: u64) -> Result<Vec<NextTick>, TimeCorrectionError> {
        let schedules: Vec<_> = {
            let table = self.table.read();
            let all = table.schedules(None, usize::MAX).items.into_iter();
            all.filter(|schedule| !schedule.paused)
                .map(|schedule| {
                    let times = (schedule.cron.clone(), schedule.timezone.clone());
                    (schedule.name.clone(), schedule.generation, times)
                })
                .collect()
        };
        let ticks = schedules
            .into_iter()
            .map(|(name, generation, (cron, timezone))| {
                let times = ScheduleTimes::parse_kept(&cron, &timezone).map_err(|problem| {
                    TimeCorrectionError::Schedule {
                        schedule: name.to_string(),
                        problem: problem.to_string(),
                    }
                })?;
                Ok(NextTick {
                    schedule: name.to_string(),
                    generation,
                    next_tick_ms: times.next_after(after_ms),
                })
            });
        ticks.collect()
    }
}

//! Schedule loop: sleeps until the earliest tick is due, computes the tick after it, and proposes both.
//!
//! The table takes a tick only if its schedule waits for exactly that one. The loop therefore keeps no state. After a
//! failover the next leader finds the same tick due and proposes it again; the second of two proposals is ignored. The
//! loop decides what happens to a late tick: see [`decide_tick`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use triarch_table::command::{CatchUp, TickAction, TickSchedule};
use triarch_table::{Command, Schedule};

use super::retry;
use super::term::LeaderTerm;
use crate::schedule_times::ScheduleTimes;

/// Maximum lateness of a punctual tick, which fires under every catch-up policy. Longer than any failover.
const MISFIRE_GRACE_MS: u64 = 30_000;
/// Maximum schedules in one round.
const SCHEDULE_BATCH_MAX: usize = 256;
/// Maximum ticks computed in one round. The rest follow in the next, so that the loop does not occupy its thread.
const TICKS_PER_ROUND_MAX: u64 = 2_000;
/// Maximum proposals of ticks in flight.
const PROPOSALS_IN_FLIGHT_MAX: usize = 64;
/// Longest sleep: the cluster's clock may be slewed while the loop sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Fires the ticks of all schedules, until the task is aborted.
pub async fn fire_ticks(lead: Arc<LeaderTerm>) {
    let mut unreadable = UnreadableSchedules::default();
    loop {
        let now_ms = lead.now_ms();
        let Due { schedules, next_ms } = due(&lead, &unreadable, now_ms);
        if schedules.is_empty() {
            let sleep = next_ms.map_or(SLEEP_MAX, |next_ms| {
                Duration::from_millis(next_ms.saturating_sub(now_ms)).min(SLEEP_MAX)
            });
            // Any change of a schedule may bring an earlier tick.
            let _ = tokio::time::timeout(sleep, lead.table.schedules.notified()).await;
            continue;
        }
        let ticks = compute_ticks(&schedules, now_ms, &mut unreadable);
        let proposals = ticks.into_iter().map(|tick| {
            let lead = &lead;
            async move { lead.propose(&Command::TickSchedule(tick)).await }
        });
        let failed: Vec<_> = stream::iter(proposals)
            .buffer_unordered(PROPOSALS_IN_FLIGHT_MAX)
            .filter_map(async |outcome| outcome.err())
            .collect()
            .await;
        if let Some(error) = failed.into_iter().next() {
            retry::delay_after(&lead, "ticks of schedules", error).await;
        }
    }
}

struct Due {
    schedules: Vec<Arc<Schedule>>,
    /// Earliest tick that is not due yet.
    next_ms: Option<u64>,
}

fn due(lead: &LeaderTerm, unreadable: &UnreadableSchedules, now_ms: u64) -> Due {
    let table = lead.table.read();
    let mut schedules = Vec::new();
    for (at_ms, schedule) in table.ticks() {
        if unreadable.contains(schedule) {
            continue;
        }
        if at_ms > now_ms {
            return Due {
                schedules,
                next_ms: Some(at_ms),
            };
        }
        schedules.push(Arc::clone(schedule));
        if schedules.len() == SCHEDULE_BATCH_MAX {
            break;
        }
    }
    Due {
        schedules,
        next_ms: None,
    }
}

fn compute_ticks(
    schedules: &[Arc<Schedule>],
    now_ms: u64,
    unreadable: &mut UnreadableSchedules,
) -> Vec<TickSchedule> {
    let mut ticks = Vec::with_capacity(schedules.len());
    let mut ticks_left = TICKS_PER_ROUND_MAX;
    for schedule in schedules {
        let Some(tick_ms) = schedule.next_tick_ms else {
            continue;
        };
        match ScheduleTimes::parse_kept(&schedule.cron, &schedule.timezone) {
            Ok(times) => {
                let after = |ms| times.next_after(ms);
                let (action, next_tick_ms) =
                    decide_tick(tick_ms, now_ms, schedule.catch_up, &after, ticks_left);
                ticks_left = ticks_left.saturating_sub(match action {
                    TickAction::Fire => 1,
                    TickAction::Miss { ticks } => ticks,
                });
                ticks.push(TickSchedule {
                    name: schedule.name.to_string(),
                    generation: schedule.generation,
                    tick_ms,
                    next_tick_ms,
                    action,
                });
            }
            Err(error) => {
                tracing::error!(schedule = %schedule.name, %error, "this version cannot parse a schedule, which does not tick while this node leads; upgrade this node");
                unreadable.insert(schedule);
            }
        }
        if ticks_left == 0 {
            break;
        }
    }
    ticks
}

/// Decides the action of a due tick. Returns it with the tick that its schedule waits for next.
///
/// The catch-up policy decides a late tick:
///
/// - `All`: it fires in its turn.
/// - `None`: it is missed, together with all other late ticks.
/// - `One`: it is missed if another tick is due after it, so that only the last of them fires.
///
/// At most `ticks_max` ticks are missed at once.
fn decide_tick(
    tick_ms: u64,
    now_ms: u64,
    catch_up: CatchUp,
    after: &impl Fn(u64) -> Option<u64>,
    ticks_max: u64,
) -> (TickAction, Option<u64>) {
    let is_late = |tick_ms: u64| now_ms.saturating_sub(tick_ms) > MISFIRE_GRACE_MS;
    let next_ms = after(tick_ms);
    if !is_late(tick_ms) {
        return (TickAction::Fire, next_ms);
    }
    // Whether a late tick is missed, given the one after it.
    let passes = |following: Option<u64>| match catch_up {
        CatchUp::All => false,
        CatchUp::None => true,
        CatchUp::One => following.is_some_and(|following| following <= now_ms),
    };
    if !passes(next_ms) {
        return (TickAction::Fire, next_ms);
    }
    let (mut ticks, mut waits_for) = (1, next_ms);
    while let Some(tick_ms) = waits_for.filter(|&tick_ms| is_late(tick_ms) && ticks < ticks_max) {
        let following = after(tick_ms);
        if !passes(following) {
            break;
        }
        ticks += 1;
        waits_for = following;
    }
    (TickAction::Miss { ticks }, waits_for)
}

/// Schedules that this version cannot read although the version that accepted them could, by name, with the generation
/// that was tried. They must neither keep the loop busy nor stop the others.
#[derive(Default)]
struct UnreadableSchedules(HashMap<Arc<str>, u64>);

impl UnreadableSchedules {
    fn contains(&self, schedule: &Schedule) -> bool {
        self.0.get(&schedule.name) == Some(&schedule.generation)
    }

    /// Adds a schedule. The map is bounded by the number of schedules, except for those that have been deleted since.
    fn insert(&mut self, schedule: &Schedule) {
        self.0
            .insert(Arc::clone(&schedule.name), schedule.generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000;
    const MINUTE: u64 = 60 * S;

    /// Runs the loop until nothing is due. Returns the ticks that fired, the number of missed ticks, and the next
    /// tick.
    fn play(
        cron: &str,
        mut tick: u64,
        now: u64,
        catch_up: CatchUp,
        ticks_max: u64,
    ) -> (Vec<u64>, u64, u64) {
        let schedule = ScheduleTimes::parse_kept(cron, "UTC").expect("valid");
        let (mut fired, mut passed) = (Vec::new(), 0);
        while tick <= now {
            let (action, next) = decide_tick(
                tick,
                now,
                catch_up,
                &|ms| schedule.next_after(ms),
                ticks_max,
            );
            match action {
                TickAction::Fire => fired.push(tick),
                TickAction::Miss { ticks } => passed += ticks,
            }
            let next = next.expect("it goes on");
            assert!(next > tick);
            tick = next;
        }
        (fired, passed, tick)
    }

    #[test]
    fn a_tick_within_the_misfire_grace_fires_with_any_policy() {
        for catch_up in [CatchUp::None, CatchUp::One, CatchUp::All] {
            let every_second: Vec<u64> = (100..=130).map(|s| s * S).collect();
            assert_eq!(
                play("* * * * * *", 100 * S, 130 * S, catch_up, 1_000),
                (every_second, 0, 131 * S),
                "{catch_up:?}"
            );
        }
    }

    #[test]
    fn catch_up_none_passes_late_ticks_by_and_fires_the_punctual_one() {
        // No leader for ten minutes.
        let (from, now) = (10 * MINUTE, 20 * MINUTE + 40 * S);
        assert_eq!(
            play("* * * * *", from, now, CatchUp::None, 1_000),
            (vec![], 11, 21 * MINUTE)
        );
        let now = 20 * MINUTE + 10 * S;
        assert_eq!(
            play("* * * * *", from, now, CatchUp::None, 1_000),
            (vec![20 * MINUTE], 10, 21 * MINUTE),
            "the last is hardly late"
        );
    }

    #[test]
    fn catch_up_one_fires_only_the_last_late_tick() {
        for seconds in [10, 40] {
            let now = 20 * MINUTE + seconds * S;
            assert_eq!(
                play("* * * * *", 10 * MINUTE, now, CatchUp::One, 1_000),
                (vec![20 * MINUTE], 10, 21 * MINUTE)
            );
        }
        assert_eq!(
            play("0 * * * *", 60 * MINUTE, 119 * MINUTE, CatchUp::One, 1_000),
            (vec![60 * MINUTE], 0, 120 * MINUTE),
            "it is the last itself"
        );
    }

    #[test]
    fn catch_up_all_fires_every_late_tick_in_order() {
        let expected: Vec<u64> = (10..=20).map(|minute| minute * MINUTE).collect();
        assert_eq!(
            play(
                "* * * * *",
                10 * MINUTE,
                20 * MINUTE + 40 * S,
                CatchUp::All,
                1_000
            ),
            (expected, 0, 21 * MINUTE)
        );
    }

    #[test]
    fn intervals_are_caught_up_with_as_cron_is() {
        let every = |tick, now, catch_up| play("@every 90000ms", tick, now, catch_up, 1_000);
        // No leader from 100 s to 500 s: ticks at 100, 190, 280, 370 and 460 s.
        let (tick, now) = (100 * S, 500 * S);
        assert_eq!(every(tick, now, CatchUp::None), (vec![], 5, 550 * S));
        assert_eq!(every(tick, now, CatchUp::One), (vec![460 * S], 4, 550 * S));
        let all = [100, 190, 280, 370, 460].map(|s| s * S).to_vec();
        assert_eq!(every(tick, now, CatchUp::All), (all, 0, 550 * S));
        let punctual = (vec![100 * S], 0, 190 * S);
        assert_eq!(every(tick, 130 * S, CatchUp::None), punctual);
    }

    #[test]
    fn ticks_that_pass_by_are_bounded_per_round_but_not_in_total() {
        for ticks_max in [1, 2, 7, 1_000] {
            for catch_up in [CatchUp::None, CatchUp::One] {
                let (fired, passed, next) = play("* * * * * *", 0, 500 * S, catch_up, ticks_max);
                let on_time: Vec<u64> = (470..=500).map(|s| s * S).collect();
                assert_eq!((fired, passed, next), (on_time, 470, 501 * S));
            }
        }
    }
}

//! The ticks of schedules: one loop sleeps until the earliest is due, works out the one after it, and proposes both.
//!
//! The table takes a tick only if it is the one its schedule waits for, so nothing here has to be remembered: whatever
//! dies, the next leader finds the same tick due and proposes it again, and the second of two proposals is ignored. What
//! the loop does decide is what becomes of a tick that is late ([`what_becomes_of`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use triarch_table::command::{CatchUp, TickAction, TickSchedule};
use triarch_table::{Command, Schedule};

use super::Lead;
use super::loops::again;
use crate::cron::Times;

/// A tick that is no later than this is as good as punctual: it fires whatever the policy for late ones. Long enough for
/// any change of leaders.
pub const GRACE_MS: u64 = 30_000;
/// Schedules looked at in one turn.
const SCHEDULES_AT_ONCE_MAX: usize = 256;
/// Ticks worked out in one turn; the rest follow in the next, so that the thread is others' too.
const STEPS_AT_ONCE_MAX: u64 = 2_000;
/// Ticks on their way at once.
const PROPOSALS_MAX: usize = 64;
/// Longest sleep: the clock that ticks go by may be drawn towards another time meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub(super) async fn tick(lead: Arc<Lead>) {
    let mut unclear = Unclear::default();
    loop {
        let now_ms = lead.now_ms();
        let Due { schedules, next_ms } = due(&lead, &unclear, now_ms);
        if schedules.is_empty() {
            let sleep = next_ms.map_or(SLEEP_MAX, |next_ms| {
                Duration::from_millis(next_ms.saturating_sub(now_ms)).min(SLEEP_MAX)
            });
            // Any change of a schedule may bring an earlier tick.
            let _ = tokio::time::timeout(sleep, lead.table.schedules.notified()).await;
            continue;
        }
        let ticks = work_out(&schedules, now_ms, &mut unclear);
        let proposals = ticks.into_iter().map(|tick| {
            let lead = &lead;
            async move { lead.decide(&Command::TickSchedule(tick)).await }
        });
        let failed: Vec<_> = stream::iter(proposals)
            .buffer_unordered(PROPOSALS_MAX)
            .filter_map(async |outcome| outcome.err())
            .collect()
            .await;
        if let Some(error) = failed.into_iter().next() {
            again(&lead, "ticks of schedules", error).await;
        }
    }
}

struct Due {
    schedules: Vec<Arc<Schedule>>,
    /// The earliest tick that is not due yet.
    next_ms: Option<u64>,
}

fn due(lead: &Lead, unclear: &Unclear, now_ms: u64) -> Due {
    let table = lead.table.read();
    let mut schedules = Vec::new();
    for (at_ms, schedule) in table.ticks() {
        if unclear.has(schedule) {
            continue;
        }
        if at_ms > now_ms {
            return Due {
                schedules,
                next_ms: Some(at_ms),
            };
        }
        schedules.push(Arc::clone(schedule));
        if schedules.len() == SCHEDULES_AT_ONCE_MAX {
            break;
        }
    }
    Due {
        schedules,
        next_ms: None,
    }
}

fn work_out(schedules: &[Arc<Schedule>], now_ms: u64, unclear: &mut Unclear) -> Vec<TickSchedule> {
    let mut ticks = Vec::with_capacity(schedules.len());
    let mut steps = STEPS_AT_ONCE_MAX;
    for schedule in schedules {
        let Some(tick_ms) = schedule.next_tick_ms else {
            continue;
        };
        match Times::read(&schedule.cron, &schedule.timezone) {
            Ok(times) => {
                let after = |ms| times.after(ms);
                let (action, next_tick_ms) =
                    what_becomes_of(tick_ms, now_ms, schedule.catch_up, &after, steps);
                steps = steps.saturating_sub(match action {
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
                tracing::error!(schedule = %schedule.name, %error, "this version does not understand a schedule: it does not tick while this node leads");
                unclear.add(schedule);
            }
        }
        if steps == 0 {
            break;
        }
    }
    ticks
}

/// What a tick that is due does, and the tick that its schedule waits for after that.
///
/// A late one fires by `All` in its turn; by `None` it passes by, with all that are late; by `One` it passes by if another
/// is due after it, so that only the last of them fires. No more than `steps_max` ticks pass by at once.
fn what_becomes_of(
    tick_ms: u64,
    now_ms: u64,
    catch_up: CatchUp,
    after: &impl Fn(u64) -> Option<u64>,
    steps_max: u64,
) -> (TickAction, Option<u64>) {
    let is_late = |tick_ms: u64| now_ms.saturating_sub(tick_ms) > GRACE_MS;
    let next_ms = after(tick_ms);
    if !is_late(tick_ms) {
        return (TickAction::Fire, next_ms);
    }
    // Whether a late tick passes by, given the one after it.
    let passes = |following: Option<u64>| match catch_up {
        CatchUp::All => false,
        CatchUp::None => true,
        CatchUp::One => following.is_some_and(|following| following <= now_ms),
    };
    if !passes(next_ms) {
        return (TickAction::Fire, next_ms);
    }
    let (mut ticks, mut waits_for) = (1, next_ms);
    while let Some(tick_ms) = waits_for.filter(|&tick_ms| is_late(tick_ms) && ticks < steps_max) {
        let following = after(tick_ms);
        if !passes(following) {
            break;
        }
        ticks += 1;
        waits_for = following;
    }
    (TickAction::Miss { ticks }, waits_for)
}

/// Schedules that this version does not understand, though the one that took them in did: by name, with the generation
/// that was looked at. They must neither keep the loop busy nor stop the others.
#[derive(Default)]
struct Unclear(HashMap<Arc<str>, u64>);

impl Unclear {
    fn has(&self, schedule: &Schedule) -> bool {
        self.0.get(&schedule.name) == Some(&schedule.generation)
    }

    /// Bounded by the number of schedules, but for those that were deleted meanwhile.
    fn add(&mut self, schedule: &Schedule) {
        self.0
            .insert(Arc::clone(&schedule.name), schedule.generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000;
    const MINUTE: u64 = 60 * S;

    /// Plays the loop until nothing is due; gives the ticks that fired, how many passed by, and what is waited for.
    fn play(
        cron: &str,
        mut tick: u64,
        now: u64,
        catch_up: CatchUp,
        steps_max: u64,
    ) -> (Vec<u64>, u64, u64) {
        let times = Times::read(cron, "UTC").expect("clear");
        let (mut fired, mut passed) = (Vec::new(), 0);
        while tick <= now {
            let (action, next) =
                what_becomes_of(tick, now, catch_up, &|ms| times.after(ms), steps_max);
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
    fn what_is_hardly_late_fires_by_any_policy() {
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
    fn none_goes_on_with_what_is_not_late() {
        // Ten minutes nobody was there.
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
    fn one_makes_the_last_tick_up_for_all() {
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
    fn all_makes_up_for_each_in_order() {
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
    fn what_passes_by_is_bounded_at_once_but_not_in_all() {
        for steps_max in [1, 2, 7, 1_000] {
            for catch_up in [CatchUp::None, CatchUp::One] {
                let (fired, passed, next) = play("* * * * * *", 0, 500 * S, catch_up, steps_max);
                let on_time: Vec<u64> = (470..=500).map(|s| s * S).collect();
                assert_eq!((fired, passed, next), (on_time, 470, 501 * S));
            }
        }
    }
}

//! Parser of the commands about schedules.

use bytes::Bytes;
use triarch_table::command::{CatchUp, Overlap, PutSchedule, TickAction, TickSchedule};

use crate::parse::{Parsed, number, submit};

/// Parses a schedule: removes the words of the schedule itself; the rest is a submission.
pub fn schedule(rest: &str) -> Parsed<PutSchedule> {
    let (words, tasks) = rest.split_once(" / ").ok_or("a schedule has tasks")?;
    let mut words: Vec<&str> = words.split_whitespace().collect();
    let mut own = |name: &str| {
        let at = words.iter().position(|word| {
            word.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })?;
        Some(
            words
                .remove(at)
                .trim_start_matches(name)
                .trim_start_matches('='),
        )
    };
    let (cron, timezone) = (own("cron"), own("zone"));
    let next_tick_ms = own("next").map(number).transpose()?;
    let overlap = own("forbid").map_or(Overlap::Allow, |_| Overlap::Forbid);
    let catch_up = match own("catch_up") {
        None | Some("one") => CatchUp::One,
        Some("none") => CatchUp::None,
        Some("all") => CatchUp::All,
        Some(other) => return Err(format!("{other:?} is no way to catch up")),
    };
    let paused = own("paused").is_some();
    let (name, words) = words.split_first().ok_or("a schedule has a name")?;
    Ok(PutSchedule {
        name: name.to_string(),
        cron: cron.unwrap_or("* * * * *").to_owned(),
        timezone: timezone.unwrap_or("UTC").to_owned(),
        job: submit(&format!("{} / {tasks}", words.join(" ")))?,
        job_text: Bytes::from(tasks.to_owned()),
        overlap,
        catch_up,
        paused,
        next_tick_ms,
    })
}

/// Parses a schedule's name, its generation, and a time if there is one.
pub fn numbered(words: &[&str]) -> Parsed<(String, u64, Option<u64>)> {
    let [name, generation, next @ ..] = words else {
        return Err("which schedule, and which generation of it?".to_owned());
    };
    let next = next.first().map(|next| number(next)).transpose()?;
    Ok((name.to_string(), number(generation)?, next))
}

pub fn tick(words: &[&str]) -> Parsed<TickSchedule> {
    let (action, words): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| word.starts_with("pass="));
    let [name, generation, tick, next @ ..] = &words[..] else {
        return Err("which schedule, which generation of it, and when?".to_owned());
    };
    Ok(TickSchedule {
        name: name.to_string(),
        generation: number(generation)?,
        tick_ms: number(tick)?,
        next_tick_ms: next.first().map(|next| number(next)).transpose()?,
        action: match action.first() {
            None => TickAction::Fire,
            Some(pass) => TickAction::Miss {
                ticks: number(pass.trim_start_matches("pass="))?,
            },
        },
    })
}

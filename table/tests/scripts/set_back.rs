//! Parser of `set_back`.

use triarch_table::command::{NextTick, SetTimeBack};

use crate::parse::{Parsed, number};

/// Parses the words after `set_back`: the new time, and the next ticks of schedules.
pub fn parse(words: &[&str]) -> Parsed<SetTimeBack> {
    let (to, ticks) = words.split_first().ok_or("to which time?")?;
    let tick = |word: &&str| {
        let parts: Vec<&str> = word.split(':').collect();
        let [schedule, generation, next] = parts[..] else {
            return Err(format!("{word:?} is no tick"));
        };
        Ok(NextTick {
            schedule: schedule.to_owned(),
            generation: number(generation)?,
            next_tick_ms: Some(number(next)?),
        })
    };
    Ok(SetTimeBack {
        to_ms: number(to)?,
        ticks: ticks.iter().map(tick).collect::<Parsed<_>>()?,
    })
}

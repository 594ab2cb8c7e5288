//! Cron expressions: the ticks of a schedule in its time zone, as points in time.
//!
//! Both the server (which refuses invalid expressions, and shows the next ticks) and the leader (which computes each
//! next tick) use this. The table never does, because another version of the time-zone database would give it other
//! ticks.
//!
//! Daylight saving follows the rule of Vixie cron, for changes of the clocks of any length:
//!
//! - An expression without `*` in the fields of seconds, minutes and hours names fixed times of the day (`30 2 * * *`,
//!   `0 2,14 * * *`). Each happens once a day. Where clocks skip it, it happens at the first moment after the gap, which may
//!   be on the next day; where they repeat it, at the first of the two.
//! - Any other expression (`*/30 * * * *`) follows the wall clock. A skipped time does not happen, a repeated time happens
//!   again.
//!
//! The library croner finds the matching times of an idealised clock. Which moments they are is decided here.

use std::str::FromStr;

use chrono::{DateTime, LocalResult, Offset, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Maximum length of an expression in bytes.
const EXPRESSION_BYTES_MAX: usize = 200;
/// Maximum distance of the next tick in years. The calendar repeats itself within this time.
const LOOKAHEAD_YEARS: u64 = 50;
const YEAR_MS: u64 = 366 * 24 * 3_600_000;

/// Interval in seconds at which changes of the clocks are searched. No zone has two changes within it.
const CLOCK_CHANGE_STEP_S: i64 = 24 * 3_600;

/// A parsed cron expression with its time zone.
#[derive(Debug)]
pub struct CronSchedule {
    cron: Cron,
    zone: Tz,
    /// Whether it names fixed times of the day. See the module.
    fixed: bool,
}

/// Reason for which an expression or its time zone is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression is invalid.
    #[error("{0}")]
    Expression(String),
    /// The time zone is unknown.
    #[error("{0}")]
    Timezone(String),
}

/// Names, accepted values and longest steps of an expression's fields. An expression of five fields begins with the second
/// of them.
const FIELDS: [(&str, &str, u32); 6] = [
    ("second", "0-59 with * , - /", 59),
    ("minute", "0-59 with * , - /", 59),
    ("hour", "0-23 with * , - /", 23),
    (
        "day of the month",
        "1-31 with * , - / ?, L for the last day, 15W for the weekday nearest to the 15th",
        31,
    ),
    ("month", "1-12 or JAN-DEC with * , - /", 12),
    (
        "day of the week",
        "0-7 or SUN-SAT (0 and 7 are Sunday) with * , - / ?, 5#2 for the second Friday, 5L for the last, a + before it \
         for days on which the day of the month is right too",
        7,
    ),
];

const NICKNAMES: [&str; 6] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@hourly",
];

impl CronSchedule {
    /// Parses an expression and the name of a time zone.
    pub fn parse(cron: &str, timezone: &str) -> Result<Self, CronError> {
        check_items(cron).map_err(CronError::Expression)?;
        Self::parse_kept(cron, timezone)
    }

    /// Parses an expression that was accepted before. An earlier version may have accepted steps beyond the range of their
    /// field, which mean the first value of the range.
    pub fn parse_kept(cron: &str, timezone: &str) -> Result<Self, CronError> {
        let zone = Tz::from_str(timezone).map_err(|_| {
            CronError::Timezone(format!(
                "{timezone:?} is not a time zone; use a name of the IANA database, such as Europe/Paris or UTC"
            ))
        })?;
        let fixed = names_fixed_times(cron);
        let cron = parse_expression(cron).map_err(CronError::Expression)?;
        Ok(Self { cron, zone, fixed })
    }

    /// Returns the first tick after this moment, in Unix ms; `None` if there is none within fifty years.
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        let next_s = self.next_after_s(i64::try_from(ms / 1_000).ok()?)?;
        let next_ms = u64::try_from(next_s).ok()?.checked_mul(1_000)?;
        (next_ms > ms && next_ms - ms <= LOOKAHEAD_YEARS * YEAR_MS).then_some(next_ms)
    }

    /// Returns the first tick after this moment, in Unix seconds. Goes from one change of the clocks to the next: between
    /// two of them, the wall clock differs from UTC by a constant.
    fn next_after_s(&self, from: i64) -> Option<i64> {
        let mut at = from;
        let mut inclusive = false;
        loop {
            let offset = self.offset_s(at)?;
            let wall = self.next_wall_s(at.checked_add(offset)?, inclusive)?;
            let tick = wall - offset;
            if let Some(change) = self.clock_change_s(at, tick)? {
                // The clocks skip what is between the two offsets.
                let resumes_at = change + self.offset_s(change)?;
                if self.fixed && wall < resumes_at {
                    return Some(change);
                }
                (at, inclusive) = (change, true);
                continue;
            }
            if !self.fixed || !self.is_repeated(wall, tick) {
                return Some(tick);
            }
            (at, inclusive) = (tick, false);
        }
    }

    /// Returns the first time of an idealised clock that matches, from this one on.
    fn next_wall_s(&self, wall: i64, inclusive: bool) -> Option<i64> {
        let from = DateTime::<Utc>::from_timestamp(wall, 0)?;
        let next = self.cron.find_next_occurrence(&from, inclusive).ok()?;
        Some(next.timestamp())
    }

    /// Returns by how much the wall clock is ahead of UTC at this moment, in seconds.
    fn offset_s(&self, at: i64) -> Option<i64> {
        let utc = DateTime::<Utc>::from_timestamp(at, 0)?;
        let offset = self.zone.offset_from_utc_datetime(&utc.naive_utc());
        Some(i64::from(offset.fix().local_minus_utc()))
    }

    /// Returns the first moment after `from`, and not after `until`, at which the clocks are changed.
    fn clock_change_s(&self, from: i64, until: i64) -> Option<Option<i64>> {
        let offset = self.offset_s(from)?;
        let mut before = from;
        while before < until {
            let mut after = (before + CLOCK_CHANGE_STEP_S).min(until);
            if self.offset_s(after)? == offset {
                before = after;
                continue;
            }
            while after - before > 1 {
                let middle = before + (after - before) / 2;
                if self.offset_s(middle)? == offset {
                    before = middle;
                } else {
                    after = middle;
                }
            }
            return Some(Some(after));
        }
        Some(None)
    }

    /// Returns whether clocks have shown this time before, at an earlier moment than this one.
    fn is_repeated(&self, wall: i64, tick: i64) -> bool {
        let Some(wall) = DateTime::<Utc>::from_timestamp(wall, 0) else {
            return false;
        };
        match self.zone.from_local_datetime(&wall.naive_utc()) {
            LocalResult::Ambiguous(first, _) => first.timestamp() < tick,
            LocalResult::Single(_) | LocalResult::None => false,
        }
    }

    /// Formats the moment as a wall clock in the time zone shows it.
    pub fn local_time(&self, ms: u64) -> Option<String> {
        let time = DateTime::<Utc>::from_timestamp_millis(i64::try_from(ms).ok()?)?;
        let local = time.with_timezone(&self.zone);
        Some(local.to_rfc3339_opts(SecondsFormat::Secs, false))
    }
}

/// Returns whether an expression has no `*` in the fields of the time of day.
fn names_fixed_times(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [nickname] => !nickname.eq_ignore_ascii_case("@hourly"),
        // Six fields begin with the seconds.
        _ => !words[..words.len().saturating_sub(3)]
            .iter()
            .any(|word| word.contains('*')),
    }
}

/// Refuses items of fields that would be of no effect: steps that are longer than the range of their field, an `L` without
/// the day of the week that it is the last of, and items without a value.
fn check_items(text: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let fields = match words.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        // The number of fields is refused elsewhere.
        _ => return Ok(()),
    };
    for (at, (word, (name, takes, step_max))) in words.iter().zip(fields).enumerate() {
        let is_weekday = at + 1 == words.len();
        for item in word.strip_prefix('+').unwrap_or(word).split(',') {
            if item.is_empty() || is_weekday && item.eq_ignore_ascii_case("L") {
                return Err(format!("{name} {word:?} is invalid; it accepts {takes}"));
            }
        }
        let steps = word.split(',').filter_map(|item| item.split_once('/'));
        for (_, step) in steps {
            let is_number = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
            if is_number && step.parse::<u32>().is_ok_and(|step| step <= *step_max) {
                continue;
            }
            if is_number {
                return Err(format!(
                    "{name} {word:?} is invalid: its steps go up to {step_max}, because the count starts again at the beginning of each range; name the \
                     values instead, or use the next larger field"
                ));
            }
        }
    }
    Ok(())
}

fn parse_expression(text: &str) -> Result<Cron, String> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(format!(
            "is {} bytes long; the limit is {EXPRESSION_BYTES_MAX}",
            text.len()
        ));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [nickname] = words[..]
        && nickname.starts_with('@')
    {
        let known = NICKNAMES
            .iter()
            .any(|known| known.eq_ignore_ascii_case(nickname));
        let known = if known {
            parse_fields(nickname).ok()
        } else {
            None
        };
        return known.ok_or_else(|| {
            format!(
                "{nickname:?} is not one of the nicknames {}",
                NICKNAMES.join(" ")
            )
        });
    }
    let fields = match words.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        _ if text.starts_with("@every") => {
            return Err(format!(
                "{text:?} is no cron expression: an interval is given as every_ms (--every on the command line)"
            ));
        }
        count => {
            return Err(format!(
                "has {count} fields; it needs five (minute, hour, day of the month, month, day of the week) \
                 or six, with seconds first"
            ));
        }
    };
    parse_fields(&words.join(" ")).map_err(|why| {
        // A field that is wrong stays wrong when all others are right.
        let alone = |at: usize| {
            let mut others = vec!["*"; words.len()];
            others[at] = words[at];
            parse_fields(&others.join(" ")).is_err()
        };
        match (0..words.len()).find(|&at| alone(at)) {
            Some(at) => {
                let (name, takes, _) = fields[at];
                format!("{name} {:?} is invalid; it accepts {takes}", words[at])
            }
            None => why,
        }
    })
}

fn parse_fields(text: &str) -> Result<Cron, String> {
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build()
        .parse(text)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;

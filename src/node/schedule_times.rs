//! Times of a schedule: a cron expression in a time zone, or an interval.
//!
//! The table stores them as text, and only the server and the leader read it. The text of an interval is `@every 90000ms`,
//! which no cron expression can be.

use chrono::{DateTime, SecondsFormat, Utc};
use triarch_table::command::INTERVAL_PREFIX;

use crate::cron::{CronError, CronSchedule};

/// Unit of the text of an interval.
const UNIT: &str = "ms";
/// Minimum interval, of which every interval is a multiple. Ticks have whole seconds, as those of cron.
pub const EVERY_MS_STEP: u64 = 1_000;
/// Maximum interval: a year.
pub const EVERY_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// Times of a schedule.
#[derive(Debug)]
pub enum ScheduleTimes {
    /// The times of a cron expression.
    Cron(Box<CronSchedule>),
    /// A tick after each interval of this many ms.
    Every(u64),
}

/// Returns the text of an interval for the table.
///
/// # Errors
///
/// Returns what is wrong with the interval.
pub fn interval_text(every_ms: u64) -> Result<String, String> {
    if !(EVERY_MS_STEP..=EVERY_MS_MAX).contains(&every_ms)
        || !every_ms.is_multiple_of(EVERY_MS_STEP)
    {
        return Err(format!(
            "is {every_ms}, must be a multiple of {EVERY_MS_STEP} from {EVERY_MS_STEP} to {EVERY_MS_MAX}"
        ));
    }
    Ok(format!("{INTERVAL_PREFIX}{every_ms}{UNIT}"))
}

/// Returns the interval of such a text in ms. `None` for a cron expression.
pub fn interval_ms(text: &str) -> Option<u64> {
    let every_ms = text.strip_prefix(INTERVAL_PREFIX)?.strip_suffix(UNIT)?;
    every_ms.parse().ok().filter(|every_ms| *every_ms > 0)
}

impl ScheduleTimes {
    /// Parses the text and the time zone of a schedule in the table.
    pub fn parse_kept(text: &str, timezone: &str) -> Result<Self, CronError> {
        match interval_ms(text) {
            Some(every_ms) => Ok(ScheduleTimes::Every(every_ms)),
            None => {
                let cron = CronSchedule::parse_kept(text, timezone)?;
                Ok(ScheduleTimes::Cron(Box::new(cron)))
            }
        }
    }

    /// Returns the first tick after this moment, in Unix ms; `None` if there is none within fifty years. Intervals are
    /// counted from this moment, so that of a tick is the one after it.
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        match self {
            ScheduleTimes::Cron(cron) => cron.next_after(ms),
            ScheduleTimes::Every(every_ms) => ms
                .checked_add(*every_ms)?
                .checked_next_multiple_of(EVERY_MS_STEP),
        }
    }

    /// Formats the moment as a wall clock in the time zone shows it. That of an interval is UTC.
    pub fn local_time(&self, ms: u64) -> Option<String> {
        match self {
            ScheduleTimes::Cron(cron) => cron.local_time(ms),
            ScheduleTimes::Every(_) => {
                let time = DateTime::<Utc>::from_timestamp_millis(i64::try_from(ms).ok()?)?;
                Some(time.to_rfc3339_opts(SecondsFormat::Secs, false))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_read_back_from_its_text_and_is_no_cron_expression() {
        for every_ms in [1_000, 90_000, EVERY_MS_MAX] {
            let text = interval_text(every_ms).expect("within the bounds");
            assert_eq!(interval_ms(&text), Some(every_ms));
            assert!(CronSchedule::parse(&text, "UTC").is_err(), "{text}");
            assert!(matches!(
                ScheduleTimes::parse_kept(&text, "UTC"),
                Ok(ScheduleTimes::Every(ms)) if ms == every_ms
            ));
        }
        for wrong in [0, 1, 999, 1_500, EVERY_MS_MAX + 1_000, u64::MAX] {
            assert!(interval_text(wrong).is_err(), "{wrong}");
        }
        for text in [
            "@every 0ms",
            "@every 5",
            "@every -5ms",
            "@every ms",
            "* * * * *",
            "@every 1m",
        ] {
            assert_eq!(interval_ms(text), None, "{text}");
        }
        assert!(ScheduleTimes::parse_kept("@every 0ms", "UTC").is_err());
    }

    #[test]
    fn ticks_of_an_interval_are_equally_far_apart_and_at_whole_seconds() {
        let times = ScheduleTimes::Every(90_000);
        let first = times.next_after(1_764_000_000_123).expect("a tick");
        assert_eq!(first, 1_764_000_091_000);
        let second = times.next_after(first).expect("a tick");
        assert_eq!(second - first, 90_000);
        assert_eq!(times.next_after(u64::MAX), None);
        assert_eq!(
            times.local_time(first).as_deref(),
            Some("2025-11-24T16:01:31+00:00")
        );
    }
}

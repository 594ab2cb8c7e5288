//! Cron expressions: the ticks of a schedule in its time zone, as points in time.
//!
//! Both the server (which refuses invalid expressions, and shows the next ticks) and the leader (which computes each
//! next tick) use this. The table never does, because another version of the time-zone database would give it other
//! ticks.
//!
//! Daylight saving follows the rule of croner and of Vixie cron:
//!
//! - A fixed time of day (one second, one minute, one hour, such as `30 2 * * *`) happens once a day. Where clocks skip
//!   it, it happens at the first moment after the gap; where they repeat it, at the first of the two.
//! - An expression with more than one value in these fields (`*/30 * * * *`, `0 1-3 * * *`) follows the wall clock. A
//!   skipped time does not happen, a repeated time happens again.

use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Maximum length of an expression in bytes.
const EXPRESSION_BYTES_MAX: usize = 200;
/// Maximum distance of the next tick in years. The calendar repeats itself within this time.
const LOOKAHEAD_YEARS: u64 = 50;
const YEAR_MS: u64 = 366 * 24 * 3_600_000;

/// A parsed cron expression with its time zone.
#[derive(Debug)]
pub struct CronSchedule {
    cron: Cron,
    zone: Tz,
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

/// Names and accepted values of an expression's fields. An expression of five fields begins with the second of them.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0-59 with * , - /"),
    ("minute", "0-59 with * , - /"),
    ("hour", "0-23 with * , - /"),
    (
        "day of the month",
        "1-31 with * , - / ?, L for the last day, 15W for the weekday nearest to the 15th",
    ),
    ("month", "1-12 or JAN-DEC with * , - /"),
    (
        "day of the week",
        "0-7 or SUN-SAT (0 and 7 are Sunday) with * , - / ?, 5#2 for the second Friday, 5L for the last, a + before it \
         for days on which the day of the month is right too",
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
        let zone = Tz::from_str(timezone).map_err(|_| {
            CronError::Timezone(format!(
                "{timezone:?} is not a time zone; use a name of the IANA database, such as Europe/Paris or UTC"
            ))
        })?;
        let cron = parse_expression(cron).map_err(CronError::Expression)?;
        Ok(Self { cron, zone })
    }

    /// Returns the first tick after this moment, in Unix ms; `None` if there is none within fifty years.
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        let from = i64::try_from(ms)
            .ok()
            .and_then(DateTime::from_timestamp_millis)?
            .with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        let next_ms = u64::try_from(next.timestamp_millis()).ok()?;
        // croner counts in whole seconds: milliseconds in its answer come from the argument, not from a tick.
        let next_ms = next_ms - next_ms % 1_000;
        (next_ms > ms && next_ms - ms <= LOOKAHEAD_YEARS * YEAR_MS).then_some(next_ms)
    }

    /// Formats the moment as a wall clock in the time zone shows it.
    pub fn local_time(&self, ms: u64) -> Option<String> {
        let time = DateTime::<Utc>::from_timestamp_millis(i64::try_from(ms).ok()?)?;
        let local = time.with_timezone(&self.zone);
        Some(local.to_rfc3339_opts(SecondsFormat::Secs, false))
    }
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
                let (name, takes) = fields[at];
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
mod tests {
    use super::*;

    fn ms(time: &str) -> u64 {
        let time = DateTime::parse_from_rfc3339(time).expect("a time");
        u64::try_from(time.timestamp_millis()).expect("after 1970")
    }

    /// Returns the ticks after a moment, as clocks in the zone show them.
    fn ticks(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = CronSchedule::parse(cron, zone).expect("valid");
        let ticks = std::iter::successors(schedule.next_after(ms(from)), |&tick| {
            schedule.next_after(tick)
        });
        ticks
            .take(count)
            .map(|tick| schedule.local_time(tick).expect("within the calendar"))
            .collect()
    }

    #[test]
    fn an_expression_has_five_fields_or_six_with_seconds_first() {
        assert_eq!(
            ticks("*/5 * * * *", "UTC", "2026-11-23T10:03:07.5Z", 3),
            [
                "2026-11-23T10:05:00+00:00",
                "2026-11-23T10:10:00+00:00",
                "2026-11-23T10:15:00+00:00"
            ]
        );
        assert_eq!(
            ticks("* * * * * *", "UTC", "2026-11-23T10:03:07.999Z", 2),
            ["2026-11-23T10:03:08+00:00", "2026-11-23T10:03:09+00:00"]
        );
        assert_eq!(
            ticks("* * * * * *", "UTC", "2026-11-23T10:03:07Z", 1),
            ["2026-11-23T10:03:08+00:00"],
            "after means after"
        );
        assert_eq!(
            ticks("0 9 * * MON-FRI", "Europe/Paris", "2026-11-27T10:00:00Z", 2),
            ["2026-11-30T09:00:00+01:00", "2026-12-01T09:00:00+01:00"]
        );
        assert_eq!(
            ticks("@daily", "UTC", "2026-11-23T10:00:00Z", 1),
            ["2026-11-24T00:00:00+00:00"]
        );
        assert_eq!(
            ticks("0 0 29 2 *", "UTC", "2026-11-23T10:00:00Z", 2),
            ["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"]
        );
    }

    #[test]
    fn days_may_be_written_as_last_nearest_weekday_nth_and_by_nickname() {
        for (cron, day) in [
            ("0 0 L * *", "2026-11-30"),
            ("0 0 15W 8 *", "2027-08-16"),
            ("0 0 * * 5#2", "2026-12-11"),
            ("0 0 * * 5L", "2026-11-27"),
            ("0 0 13 * FRI", "2026-11-27"),
            ("0 0 13 * +FRI", "2027-08-13"),
            ("0 0 * * 7", "2026-11-29"),
            ("0 0 ? * sun", "2026-11-29"),
            ("@hourly", "2026-11-23"),
            ("@weekly", "2026-11-29"),
            ("@monthly", "2026-12-01"),
            ("@yearly", "2027-01-01"),
            ("@Annually", "2027-01-01"),
        ] {
            let found = ticks(cron, "UTC", "2026-11-23T10:00:00Z", 1).concat();
            assert!(found.starts_with(day), "{cron}: {found}");
        }
    }

    #[test]
    fn a_fixed_time_skipped_in_spring_happens_right_after_the_gap() {
        // Paris goes from 02:00 to 03:00 on 29 March 2026, New York on 8 March.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Paris", "2026-03-28T00:00:00Z", 3),
            [
                "2026-03-28T02:30:00+01:00",
                "2026-03-29T03:00:00+02:00",
                "2026-03-30T02:30:00+02:00"
            ]
        );
        assert_eq!(
            ticks("30 2 * * *", "America/New_York", "2026-03-07T05:00:00Z", 3),
            [
                "2026-03-07T02:30:00-05:00",
                "2026-03-08T03:00:00-04:00",
                "2026-03-09T02:30:00-04:00"
            ]
        );
    }

    #[test]
    fn a_repeating_time_skipped_in_spring_does_not_happen() {
        assert_eq!(
            ticks("*/30 * * * *", "Europe/Paris", "2026-03-29T00:15:00Z", 3),
            [
                "2026-03-29T01:30:00+01:00",
                "2026-03-29T03:00:00+02:00",
                "2026-03-29T03:30:00+02:00"
            ]
        );
        assert_eq!(
            ticks("0 1-3 * * *", "America/New_York", "2026-03-08T05:30:00Z", 3),
            [
                "2026-03-08T01:00:00-05:00",
                "2026-03-08T03:00:00-04:00",
                "2026-03-09T01:00:00-04:00"
            ]
        );
    }

    #[test]
    fn a_fixed_time_repeated_in_autumn_happens_once() {
        // Paris goes back from 03:00 to 02:00 on 25 October 2026, New York from 02:00 to 01:00 on 1 November.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Paris", "2026-10-24T22:00:00Z", 2),
            ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
        );
        assert_eq!(
            ticks("30 1 * * *", "America/New_York", "2026-11-01T04:00:00Z", 2),
            ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]
        );
        // The same holds for a search that starts between the two.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Paris", "2026-10-25T01:00:00Z", 1),
            ["2026-10-26T02:30:00+01:00"]
        );
    }

    #[test]
    fn a_repeating_time_repeated_in_autumn_happens_again() {
        assert_eq!(
            ticks("*/30 * * * *", "Europe/Paris", "2026-10-25T00:15:00Z", 4),
            [
                "2026-10-25T02:30:00+02:00",
                "2026-10-25T02:00:00+01:00",
                "2026-10-25T02:30:00+01:00",
                "2026-10-25T03:00:00+01:00"
            ]
        );
        assert_eq!(
            ticks("0 1-2 * * *", "America/New_York", "2026-11-01T04:30:00Z", 3),
            [
                "2026-11-01T01:00:00-04:00",
                "2026-11-01T01:00:00-05:00",
                "2026-11-01T02:00:00-05:00"
            ]
        );
    }

    #[test]
    fn each_tick_is_later_than_the_one_before() {
        let zones = [
            "UTC",
            "Europe/Paris",
            "America/New_York",
            "Australia/Lord_Howe",
        ];
        let crons = [
            "*/20 * * * *",
            "30 2 * * *",
            "15 */2 * * *",
            "59 59 1 * * *",
        ];
        for zone in zones {
            for cron in crons {
                let schedule = CronSchedule::parse(cron, zone).expect("valid");
                let mut tick = ms("2026-03-01T00:00:00Z");
                while tick < ms("2026-11-10T00:00:00Z") {
                    // Skips the months in which no clock is changed.
                    if (ms("2026-04-10T00:00:00Z")..ms("2026-10-01T00:00:00Z")).contains(&tick) {
                        tick = ms("2026-10-01T00:00:00Z");
                    }
                    let next = schedule.next_after(tick).expect("it goes on");
                    assert!(
                        next > tick && next.is_multiple_of(1_000),
                        "{cron} in {zone}: {tick}"
                    );
                    // From any moment in between, the answer is the same.
                    assert_eq!(
                        schedule.next_after(next - 1),
                        Some(next),
                        "{cron} in {zone}"
                    );
                    tick = next;
                }
            }
        }
    }

    #[test]
    fn an_invalid_expression_is_refused_with_the_name_of_its_field() {
        let refused = |cron: &str| match CronSchedule::parse(cron, "UTC") {
            Err(CronError::Expression(why)) => why,
            other => panic!("{cron}: {other:?}"),
        };
        for (cron, said) in [
            ("", "has 0 fields"),
            ("* * * *", "has 4 fields"),
            ("* * * * * * *", "has 7 fields"),
            ("60 * * * *", "minute \"60\""),
            ("* 24 * * *", "hour \"24\""),
            ("0 0 0 * *", "day of the month \"0\""),
            ("0 0 1 13 *", "month \"13\""),
            ("0 0 * * 8", "day of the week \"8\""),
            ("61 * * * * *", "second \"61\""),
            ("* 5-1 * * *", "hour \"5-1\""),
            ("*/0 * * * *", "minute \"*/0\""),
            ("*/x * * * *", "minute \"*/x\""),
            ("a b c d e", "minute \"a\""),
            ("@often", "not one of the nicknames"),
            ("@reboot", "not one of the nicknames"),
            (&"*".repeat(201), "201 bytes"),
        ] {
            let why = refused(cron);
            assert!(why.contains(said), "{cron}: {why}");
        }
        assert!(refused("* 24 * * *").contains("0-23"));
        for zone in ["", "Mars/Olympus", "CEST+1", "europe/paris"] {
            let why = CronSchedule::parse("* * * * *", zone).expect_err("no zone");
            assert!(matches!(why, CronError::Timezone(_)), "{zone}");
        }
    }

    #[test]
    fn a_date_that_never_comes_has_no_tick() {
        for cron in ["0 0 30 2 *", "0 0 31 4,6 *"] {
            let schedule = CronSchedule::parse(cron, "Europe/Paris").expect("valid");
            assert_eq!(
                schedule.next_after(ms("2026-11-23T10:00:00Z")),
                None,
                "{cron}"
            );
        }
        let schedule = CronSchedule::parse("* * * * *", "UTC").expect("valid");
        assert_eq!(schedule.next_after(u64::MAX), None);
        assert_eq!(schedule.local_time(u64::MAX), None);
    }
}

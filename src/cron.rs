//! When a schedule ticks: cron's words in a time zone, as points in time.
//!
//! Both the server (which refuses what makes no sense, and shows what is to come) and the leader (which works out each
//! next tick) ask here; the table never does, because another version of the time-zone database would give it other ticks.
//!
//! Daylight saving, which is croner's rule and Vixie cron's: a time of day that is fixed (one second, one minute, one
//! hour, such as `30 2 * * *`) happens once a day whatever the clocks do. Where they skip it, it happens at the first
//! moment after the gap; where they repeat it, at the first of the two. Anything with more than one value in these fields
//! (`*/30 * * * *`, `0 1-3 * * *`) goes by what the clock on the wall shows: what is skipped does not happen, what is
//! repeated happens again.

use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Longest expression that is looked at.
const CRON_BYTES_MAX: usize = 200;
/// Ticks this far apart are as good as none; the calendar repeats itself within it.
const YEARS_MAX: u64 = 50;
const YEAR_MS: u64 = 366 * 24 * 3_600_000;

/// When ticks are. See the module.
#[derive(Debug)]
pub struct Times {
    cron: Cron,
    zone: Tz,
}

/// What is wrong with the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// With the expression.
    #[error("{0}")]
    Cron(String),
    /// With the time zone.
    #[error("{0}")]
    Timezone(String),
}

/// The fields of an expression, from the second one where there are five; and what each of them takes.
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

impl Times {
    /// Reads an expression and the name of a time zone.
    pub fn read(cron: &str, timezone: &str) -> Result<Self, Unclear> {
        let zone = Tz::from_str(timezone).map_err(|_| {
            Unclear::Timezone(format!(
                "{timezone:?} is no time zone; its name in the IANA database is meant, such as Europe/Paris or UTC"
            ))
        })?;
        let cron = read_cron(cron).map_err(Unclear::Cron)?;
        Ok(Self { cron, zone })
    }

    /// The first tick after this moment, in Unix ms; `None` if there is none to speak of.
    pub fn after(&self, ms: u64) -> Option<u64> {
        let from = i64::try_from(ms)
            .ok()
            .and_then(DateTime::from_timestamp_millis)?
            .with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        let next_ms = u64::try_from(next.timestamp_millis()).ok()?;
        // croner counts in whole seconds: a part of one at the end would belong to the question, not to the answer.
        let next_ms = next_ms - next_ms % 1_000;
        (next_ms > ms && next_ms - ms <= YEARS_MAX * YEAR_MS).then_some(next_ms)
    }

    /// The same moment as the clock on the wall there shows it.
    pub fn local(&self, ms: u64) -> Option<String> {
        let time = DateTime::<Utc>::from_timestamp_millis(i64::try_from(ms).ok()?)?;
        let local = time.with_timezone(&self.zone);
        Some(local.to_rfc3339_opts(SecondsFormat::Secs, false))
    }
}

fn read_cron(text: &str) -> Result<Cron, String> {
    if text.len() > CRON_BYTES_MAX {
        return Err(format!(
            "is {} bytes long, the bound is {CRON_BYTES_MAX}",
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
        let known = if known { parse(nickname).ok() } else { None };
        return known.ok_or_else(|| {
            format!(
                "{nickname:?} is none of the nicknames {}",
                NICKNAMES.join(" ")
            )
        });
    }
    let fields = match words.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        count => {
            return Err(format!(
                "has {count} fields; it takes five (minute, hour, day of the month, month, day of the week) \
                 or six, with seconds first"
            ));
        }
    };
    parse(&words.join(" ")).map_err(|why| {
        // The field that is wrong is wrong also when all others are right.
        let alone = |at: usize| {
            let mut others = vec!["*"; words.len()];
            others[at] = words[at];
            parse(&others.join(" ")).is_err()
        };
        match (0..words.len()).find(|&at| alone(at)) {
            Some(at) => {
                let (name, takes) = fields[at];
                format!("{name} {:?} is not understood; it takes {takes}", words[at])
            }
            None => why,
        }
    })
}

fn parse(text: &str) -> Result<Cron, String> {
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

    /// The ticks after a moment, as the clocks there show them.
    fn ticks(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let times = Times::read(cron, zone).expect("clear");
        let ticks = std::iter::successors(times.after(ms(from)), |&tick| times.after(tick));
        ticks
            .take(count)
            .map(|tick| times.local(tick).expect("within the calendar"))
            .collect()
    }

    #[test]
    fn five_fields_or_six_with_seconds_first() {
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
    fn days_may_be_told_in_other_ways() {
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
    fn in_spring_a_fixed_time_that_is_skipped_happens_right_after_the_gap() {
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
    fn in_spring_what_goes_by_the_clock_skips_what_the_clock_skips() {
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
    fn in_autumn_a_fixed_time_that_is_repeated_happens_once() {
        // Paris goes back from 03:00 to 02:00 on 25 October 2026, New York from 02:00 to 01:00 on 1 November.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Paris", "2026-10-24T22:00:00Z", 2),
            ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
        );
        assert_eq!(
            ticks("30 1 * * *", "America/New_York", "2026-11-01T04:00:00Z", 2),
            ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]
        );
        // Also when the question is asked between the two.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Paris", "2026-10-25T01:00:00Z", 1),
            ["2026-10-26T02:30:00+01:00"]
        );
    }

    #[test]
    fn in_autumn_what_goes_by_the_clock_happens_again() {
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
    fn ticks_never_stand_still() {
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
                let times = Times::read(cron, zone).expect("clear");
                let mut tick = ms("2026-03-01T00:00:00Z");
                while tick < ms("2026-11-10T00:00:00Z") {
                    // The months in which clocks are changed.
                    if (ms("2026-04-10T00:00:00Z")..ms("2026-10-01T00:00:00Z")).contains(&tick) {
                        tick = ms("2026-10-01T00:00:00Z");
                    }
                    let next = times.after(tick).expect("it goes on");
                    assert!(
                        next > tick && next.is_multiple_of(1_000),
                        "{cron} in {zone}: {tick}"
                    );
                    // Asked at any moment in between, the answer is the same.
                    assert_eq!(times.after(next - 1), Some(next), "{cron} in {zone}");
                    tick = next;
                }
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let refused = |cron: &str| match Times::read(cron, "UTC") {
            Err(Unclear::Cron(why)) => why,
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
            ("@often", "none of the nicknames"),
            ("@reboot", "none of the nicknames"),
            (&"*".repeat(201), "201 bytes"),
        ] {
            let why = refused(cron);
            assert!(why.contains(said), "{cron}: {why}");
        }
        assert!(refused("* 24 * * *").contains("0-23"));
        for zone in ["", "Mars/Olympus", "CEST+1", "europe/paris"] {
            let why = Times::read("* * * * *", zone).expect_err("no zone");
            assert!(matches!(why, Unclear::Timezone(_)), "{zone}");
        }
    }

    #[test]
    fn a_date_that_never_comes_has_no_tick() {
        for cron in ["0 0 30 2 *", "0 0 31 4,6 *"] {
            let times = Times::read(cron, "Europe/Paris").expect("clear");
            assert_eq!(times.after(ms("2026-11-23T10:00:00Z")), None, "{cron}");
        }
        let times = Times::read("* * * * *", "UTC").expect("clear");
        assert_eq!(times.after(u64::MAX), None);
        assert_eq!(times.local(u64::MAX), None);
    }
}

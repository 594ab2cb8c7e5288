//! Ticks of expressions in time zones whose clocks are changed.

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
fn several_fixed_times_are_each_fixed() {
    assert_eq!(
        ticks("0 2,14 * * *", "Europe/Paris", "2026-03-28T14:00:00Z", 3),
        [
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T14:00:00+02:00",
            "2026-03-30T02:00:00+02:00"
        ]
    );
    // Two of them end up at the same moment: one tick.
    assert_eq!(
        ticks("0,30 2-3 * * *", "Europe/Paris", "2026-03-28T14:00:00Z", 3),
        [
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T03:30:00+02:00",
            "2026-03-30T02:00:00+02:00"
        ]
    );
    assert_eq!(
        ticks("0 1-2 * * *", "America/New_York", "2026-11-01T04:30:00Z", 3),
        [
            "2026-11-01T01:00:00-04:00",
            "2026-11-01T02:00:00-05:00",
            "2026-11-02T01:00:00-05:00"
        ]
    );
}

#[test]
fn a_fixed_time_in_a_gap_that_ends_at_midnight_or_begins_there_happens_after_the_gap() {
    // Nuuk goes from 23:00 to 24:00 on 27 March 2027.
    assert_eq!(
        ticks("15 23 27 3 *", "America/Nuuk", "2027-03-01T00:00:00Z", 2),
        ["2027-03-28T00:00:00-01:00", "2028-03-27T23:15:00-01:00"]
    );
    assert_eq!(
        ticks("15 23 * * *", "America/Nuuk", "2027-03-27T12:00:00Z", 2),
        ["2027-03-28T00:00:00-01:00", "2027-03-28T23:15:00-01:00"]
    );
    // Beirut goes from 24:00 to 01:00 before 29 March 2026.
    assert_eq!(
        ticks("30 0 29 3 *", "Asia/Beirut", "2026-03-01T00:00:00Z", 1),
        ["2026-03-29T01:00:00+03:00"]
    );
    assert_eq!(
        ticks("0 0 * * *", "Asia/Beirut", "2026-03-28T12:00:00Z", 2),
        ["2026-03-29T01:00:00+03:00", "2026-03-30T00:00:00+03:00"]
    );
}

#[test]
fn changes_of_half_an_hour_follow_the_same_rule() {
    // Lord Howe goes from 02:00 to 02:30 on 4 October 2026, and from 02:00 back to 01:30 on 5 April.
    assert_eq!(
        ticks(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            2
        ),
        ["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"]
    );
    assert_eq!(
        ticks(
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T10:00:00Z",
            2
        ),
        ["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"]
    );
    assert_eq!(
        ticks(
            "*/15 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:25:00Z",
            6
        ),
        [
            "2026-04-05T01:30:00+11:00",
            "2026-04-05T01:45:00+11:00",
            "2026-04-05T01:30:00+10:30",
            "2026-04-05T01:45:00+10:30",
            "2026-04-05T02:00:00+10:30",
            "2026-04-05T02:15:00+10:30"
        ]
    );
}

#[test]
fn a_skipped_day_is_a_gap_too() {
    // Samoa had no 30 December 2011.
    assert_eq!(
        ticks("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", 3),
        [
            "2011-12-29T09:00:00-10:00",
            "2011-12-31T00:00:00+14:00",
            "2011-12-31T09:00:00+14:00"
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
        ticks(
            "30 */2 * * *",
            "America/New_York",
            "2026-03-08T05:40:00Z",
            2
        ),
        ["2026-03-08T04:30:00-04:00", "2026-03-08T06:30:00-04:00"]
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
        ticks("0 * * * *", "America/New_York", "2026-11-01T04:30:00Z", 3),
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
        "America/Nuuk",
        "Asia/Beirut",
        "Africa/Casablanca",
    ];
    let crons = [
        "*/20 * * * *",
        "30 2 * * *",
        "15 */2 * * *",
        "59 59 1 * * *",
        "0,30 0-3,22-23 * * *",
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
        (
            "* * * * L",
            "day of the week \"L\" is invalid; it accepts 0-7",
        ),
        ("0 0 * * 1,l", "day of the week \"1,l\" is invalid"),
        ("0 0 0 * * +L", "day of the week \"+L\" is invalid"),
        ("0 0 * * +", "day of the week \"+\" is invalid"),
        (", * * * *", "minute \",\" is invalid; it accepts 0-59"),
        ("0 1,,2 * * *", "hour \"1,,2\" is invalid"),
        ("0 0 L, * *", "day of the month \"L,\" is invalid"),
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
fn a_step_beyond_its_range_is_refused_by_the_name_of_the_field() {
    for (cron, field, most) in [
        ("*/60 * * * *", "minute", "59"),
        ("*/90 * * * *", "minute", "59"),
        ("0-30/60 * * * *", "minute", "59"),
        ("1,5/75 * * * *", "minute", "59"),
        ("*/99999999999 * * * *", "minute", "59"),
        ("*/60 * * * * *", "second", "59"),
        ("0 */24 * * *", "hour", "23"),
        ("0 */48 * * *", "hour", "23"),
        ("0 0 */32 * *", "day of the month", "31"),
        ("0 0 1 */13 *", "month", "12"),
        ("0 0 * * */8", "day of the week", "7"),
    ] {
        let why = match CronSchedule::parse(cron, "UTC") {
            Err(CronError::Expression(why)) => why,
            other => panic!("{cron}: {other:?}"),
        };
        assert!(
            why.starts_with(field) && why.contains(most),
            "{cron}: {why}"
        );
    }
    for cron in [
        "*/59 * * * *",
        "0 */23 * * *",
        "0 0 */31 * *",
        "0 0 1 */12 *",
        "10-50/20 * * * *",
    ] {
        assert!(CronSchedule::parse(cron, "UTC").is_ok(), "{cron}");
    }
    // A schedule from before goes on.
    assert!(CronSchedule::parse_kept("*/90 * * * *", "UTC").is_ok());
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

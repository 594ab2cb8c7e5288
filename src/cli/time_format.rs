//! Relative times and durations in readable form: `3s ago`, `in 2m`, `1h 5m`.

use chrono::{DateTime, TimeDelta, Utc};

use super::duration;

/// Formats a point in time relative to `now`.
pub fn relative(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    relative_by(now - then)
}

/// Formats the point in time this many milliseconds ago.
pub fn ago_ms(ms: u64) -> String {
    relative_by(delta_ms(ms))
}

fn relative_by(ago: TimeDelta) -> String {
    if ago.abs() < TimeDelta::seconds(1) {
        "now".to_owned()
    } else if ago > TimeDelta::zero() {
        format!("{} ago", coarse(ago))
    } else {
        format!("in {}", coarse(-ago))
    }
}

/// Formats a duration, to about three digits.
pub fn span(span: TimeDelta) -> String {
    let ms = span.num_milliseconds().max(0);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{:.1}s", ms as f64 / 1_000.0),
        _ => coarse(span),
    }
}

/// Formats a duration in milliseconds, of any size.
pub fn span_ms(ms: u64) -> String {
    span(delta_ms(ms))
}

/// Formats the times of a schedule: its cron expression, or its interval.
pub fn schedule_times(cron: Option<&str>, every_ms: Option<u64>) -> String {
    match (cron, every_ms) {
        (Some(cron), _) => cron.to_owned(),
        (None, Some(every_ms)) => format!("every {}", duration::exact(every_ms)),
        (None, None) => "-".to_owned(),
    }
}

/// Converts milliseconds to a duration, at most the longest one possible.
fn delta_ms(ms: u64) -> TimeDelta {
    i64::try_from(ms)
        .ok()
        .and_then(TimeDelta::try_milliseconds)
        .unwrap_or(TimeDelta::MAX)
}

/// Formats the largest one or two units of a span of at least a second.
fn coarse(span: TimeDelta) -> String {
    let (days, hours, minutes, seconds) = (
        span.num_days(),
        span.num_hours() % 24,
        span.num_minutes() % 60,
        span.num_seconds() % 60,
    );
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, 1..=9) => format!("{minutes}m {seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (1..=9, _, _) => format!("{days}d {hours}h"),
        (_, _, _) => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_in_time_is_written_relative_to_now() {
        let now = Utc::now();
        for (ms, said) in [
            (0, "now"),
            (900, "now"),
            (3_000, "3s ago"),
            (59_000, "59s ago"),
            (65_000, "1m 5s ago"),
            (1_500_000, "25m ago"),
            (3_900_000, "1h 5m ago"),
            (90_000_000, "1d 1h ago"),
            (8_640_000_000, "100d ago"),
            (-5_000, "in 5s"),
        ] {
            assert_eq!(relative(now - TimeDelta::milliseconds(ms), now), said);
        }
    }

    #[test]
    fn a_duration_is_written_in_its_largest_units() {
        for (ms, said) in [
            (0, "0ms"),
            (12, "12ms"),
            (1_530, "1.5s"),
            (61_000, "1m 1s"),
            (-7, "0ms"),
        ] {
            assert_eq!(span(TimeDelta::milliseconds(ms)), said);
        }
        assert!(
            span_ms(u64::MAX).ends_with('d'),
            "absurd numbers are only long"
        );
    }
}

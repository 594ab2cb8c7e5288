//! Parser of durations on the command line: `500ms`, `5s`, `2m`, `1h30m`, `7d`.

use std::time::Duration;

/// Parses a sum of numbers with units. A bare number is refused, except 0, because its unit would be ambiguous.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || format!("'{text}' is not a duration; write it like 500ms, 5s, 2m, 1h30m or 7d");
    let mut rest = text;
    let mut total_ms: f64 = 0.0;
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit_ms = match unit {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => return Err(wrong()),
        };
        total_ms += number.parse::<f64>().map_err(|_| wrong())? * unit_ms;
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    if total_ms > MAX.as_millis() as f64 {
        return Err(format!(
            "'{text}' is longer than the longest duration, ten years"
        ));
    }
    Ok(Duration::from_millis(total_ms.round() as u64))
}

/// Returns a duration in milliseconds, the unit of the wire interface.
pub fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Formats a duration in milliseconds exactly, as [`parse`] reads it.
pub fn exact(ms: u64) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest = ms;
    let mut text = String::new();
    for (unit, unit_ms) in units {
        if rest >= unit_ms {
            text.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if text.is_empty() {
        "0".to_owned()
    } else {
        text
    }
}

/// Maximum duration: far beyond any use, yet small enough that no sum with a time of day overflows.
const MAX: Duration = Duration::from_secs(3_653 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_numbers_with_units_is_a_duration() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("5s", 5_000),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn an_exact_duration_is_read_back() {
        for (ms, text) in [
            (0, "0"),
            (90_000, "1m30s"),
            (5_400_000, "1h30m"),
            (604_800_001, "7d1ms"),
        ] {
            assert_eq!(exact(ms), text);
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)));
        }
    }

    #[test]
    fn a_number_without_a_known_unit_is_refused() {
        for text in [
            "", "5", "s", "5 s", "-5s", "5x", "5sec", "1..2s", "5s2", "1e3s", "٣s", "inf", "99999d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

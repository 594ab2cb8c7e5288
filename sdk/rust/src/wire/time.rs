//! Points in time on the wire.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// First and last point in time that RFC 3339 can write, in Unix milliseconds: the years 0 to 9999 in UTC.
const UNIX_MS_MIN: i64 = -62_167_219_200_000;
const UNIX_MS_MAX: i64 = 253_402_300_799_999;

/// Point in time: written as RFC 3339 in UTC with milliseconds, read from RFC 3339 with any offset.
///
/// What is written can always be read again: a time outside of the years 0 to 9999 in UTC is refused where it is read, and
/// written as the nearest time within them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime, examples("2026-11-23T10:00:00.000Z")))]
pub struct Timestamp(pub DateTime<Utc>);

impl Timestamp {
    /// From Unix milliseconds. A number beyond the year 9999 becomes its last millisecond.
    pub fn from_unix_ms(unix_ms: u64) -> Self {
        Self::clamped(i64::try_from(unix_ms).unwrap_or(UNIX_MS_MAX))
    }

    fn clamped(unix_ms: i64) -> Self {
        let unix_ms = unix_ms.clamp(UNIX_MS_MIN, UNIX_MS_MAX);
        Self(DateTime::from_timestamp_millis(unix_ms).unwrap_or(DateTime::<Utc>::UNIX_EPOCH))
    }

    /// Unix milliseconds; 0 for times before 1970.
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.0.timestamp_millis()).unwrap_or(0)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(time) = Self::clamped(self.0.timestamp_millis());
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Timestamp;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a time such as 2026-11-23T10:00:00Z, in the years 0 to 9999 in UTC")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                let wrong = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                let time = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?;
                // The offset and a leap second can lead to a year that cannot be written.
                match time.timestamp_millis() {
                    UNIX_MS_MIN..=UNIX_MS_MAX => Ok(Timestamp(time.with_timezone(&Utc))),
                    _ => Err(wrong()),
                }
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn writes_utc_with_milliseconds_and_reads_any_offset() {
        let time: Timestamp =
            serde_json::from_str(r#""2026-11-23T11:00:00.5+01:00""#).expect("valid");
        assert_eq!(time.to_string(), "2026-11-23T10:00:00.500Z");
        assert_eq!(Timestamp::from_unix_ms(time.unix_ms()), time);
    }

    #[test]
    fn an_invalid_time_is_refused_with_the_expected_format() {
        let error = serde_json::from_str::<Timestamp>(r#""tomorrow""#)
            .expect_err("not a time")
            .to_string();
        assert!(error.contains("a time such as"), "{error}");
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let read = |text: &str| serde_json::from_str::<Timestamp>(&format!("{text:?}"));
        for text in [
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59.999999Z",
            "2016-12-31T23:59:60Z",
            "2016-12-31T23:59:60.999Z",
        ] {
            let time = read(text).expect(text);
            let again = read(&time.to_string()).expect(text);
            assert_eq!(again.to_string(), time.to_string(), "{text}");
        }
        for text in [
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T23:59:60Z",
            "9999-12-31T12:00:00-12:00",
            "0000-01-01T00:00:00+00:01",
            "10000-01-01T00:00:00Z",
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains("0 to 9999"), "{text}: {error}");
        }
        for time in [
            Timestamp::from_unix_ms(u64::MAX),
            Timestamp::from_unix_ms(253_402_300_800_000),
            Timestamp(chrono::DateTime::<chrono::Utc>::MAX_UTC),
        ] {
            assert_eq!(time.to_string(), "9999-12-31T23:59:59.999Z");
        }
        let earliest = Timestamp(chrono::DateTime::<chrono::Utc>::MIN_UTC);
        assert_eq!(earliest.to_string(), "0000-01-01T00:00:00.000Z");
    }
}

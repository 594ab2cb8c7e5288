//! Points in time on the wire.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Point in time: written as RFC 3339 in UTC with milliseconds, read from RFC 3339 with any offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime, examples("2026-11-23T10:00:00.000Z")))]
pub struct Timestamp(pub DateTime<Utc>);

impl Timestamp {
    /// From Unix milliseconds. A number beyond what a calendar holds becomes the latest time it does hold.
    pub fn from_unix_ms(unix_ms: u64) -> Self {
        let time = i64::try_from(unix_ms)
            .ok()
            .and_then(DateTime::from_timestamp_millis);
        Self(time.unwrap_or(DateTime::<Utc>::MAX_UTC))
    }

    /// Unix milliseconds; 0 for times before 1970.
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.0.timestamp_millis()).unwrap_or(0)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
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
                f.write_str("a time such as 2026-11-23T10:00:00Z")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                DateTime::parse_from_rfc3339(text)
                    .map(|time| Timestamp(time.with_timezone(&Utc)))
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
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
    fn absurd_numbers_do_not_panic() {
        assert_eq!(
            Timestamp::from_unix_ms(u64::MAX).0,
            chrono::DateTime::<chrono::Utc>::MAX_UTC
        );
    }
}

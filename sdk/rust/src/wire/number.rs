//! Numbers on the wire.
//!
//! JSON has neither infinite numbers nor NaN, and its writer replaces them by `null`. Where `null` has a meaning of its
//! own, such a number must not be sent.

use serde::ser::Error;
use serde::{Serialize, Serializer};

/// Writes a number. Fails for one that JSON does not have.
pub(super) fn finite<S: Serializer>(
    number: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) if !number.is_finite() => Err(S::Error::custom(format!(
            "{number} is no number that can be sent"
        ))),
        number => number.serialize(serializer),
    }
}

/// Writes a number, or `null`. Fails for a number that JSON does not have.
pub(super) fn finite_or_null<S: Serializer>(
    number: &Option<Option<f64>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    finite(&number.flatten(), serializer)
}

#[cfg(test)]
mod tests {
    use crate::wire::{Backoff, QueueSettings};

    #[test]
    fn a_number_that_json_does_not_have_is_not_sent_as_null() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let settings = QueueSettings {
                rate_per_s: Some(Some(number)),
                ..QueueSettings::default()
            };
            let error = serde_json::to_string(&settings).expect_err("refused");
            assert!(error.to_string().contains("can be sent"), "{error}");
            for backoff in [
                Backoff {
                    factor: Some(number),
                    ..Backoff::default()
                },
                Backoff {
                    jitter: Some(number),
                    ..Backoff::default()
                },
            ] {
                serde_json::to_string(&backoff).expect_err("refused");
            }
        }
        for (rate, written) in [
            (None, "{}"),
            (Some(None), r#"{"rate_per_s":null}"#),
            (Some(Some(2.5)), r#"{"rate_per_s":2.5}"#),
        ] {
            let settings = QueueSettings {
                rate_per_s: rate,
                ..QueueSettings::default()
            };
            assert_eq!(serde_json::to_string(&settings).expect("finite"), written);
        }
    }
}

//! Delays between the attempts of a task on the wire.

use serde::{Deserialize, Serialize};

use super::number;

/// Exponential back-off: the n-th retry waits `initial_ms * factor^(n-1)`, at most `max_ms`, spread by `±jitter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// Delay before the first retry in ms. Default: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_ms: Option<u64>,
    /// Factor between two delays; at least 1. Default: 2.
    #[serde(
        default,
        serialize_with = "number::finite",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub factor: Option<f64>,
    /// Maximum delay in ms. Default: 60000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<u64>,
    /// Random part of the delay, from 0 to 1. Default: 0.1.
    #[serde(
        default,
        serialize_with = "number::finite",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
    pub jitter: Option<f64>,
}

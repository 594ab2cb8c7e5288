//! Settings of a run: its arguments, and the defaults of its mode.

use std::time::Duration;

use serde::Serialize;
use triarch_sdk::wire::exec;

use super::args::BenchArgs;
use super::mode::Mode;

/// Settings that are fixed before a run begins.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    pub mode: Mode,
    pub tasks_max: u64,
    #[serde(rename = "seconds_max")]
    pub seconds: Option<f64>,
    pub clients: u32,
    pub batch: u32,
    pub payload_bytes: u32,
    pub workers: u32,
    pub slots: u32,
    #[serde(rename = "rate_per_s")]
    pub rate: Option<f64>,
    /// Queue of this run alone.
    pub queue: String,
    pub kind: String,
    /// Prefix of the names of its workers.
    #[serde(skip)]
    pub name: String,
}

/// Maximum tasks of a run that is bounded by time.
const TASKS_UNBOUNDED: u64 = 100_000_000;

impl Settings {
    pub fn of(args: &BenchArgs) -> Self {
        let mode = args.mode;
        let by_mode = |lifecycle, submit, exec, round_trip, idle, mixed| match mode {
            Mode::Lifecycle => lifecycle,
            Mode::Submit => submit,
            Mode::Exec => exec,
            Mode::RoundTrip => round_trip,
            Mode::Idle => idle,
            Mode::Mixed => mixed,
        };
        // An idle run is bounded by time, whether it submits tasks or not.
        let seconds = match mode {
            Mode::Idle => Some(args.seconds.unwrap_or(10.0)),
            Mode::Lifecycle | Mode::Submit | Mode::Exec | Mode::RoundTrip | Mode::Mixed => {
                args.seconds
            }
        };
        let tasks_max = args.tasks.unwrap_or_else(|| match (seconds, args.rate) {
            (Some(_), None) if mode == Mode::Idle => 0,
            (Some(_), _) => TASKS_UNBOUNDED,
            (None, _) => u64::from(by_mode(10_000_u32, 10_000, 1_000, 1_000, 0, 10_000)),
        });
        let run = format!("{:08x}", rand::random::<u32>());
        let name = format!("bench-{run}");
        Self {
            mode,
            tasks_max,
            seconds,
            clients: args.clients.unwrap_or(by_mode(8, 8, 8, 1, 8, 8)),
            batch: args.batch.unwrap_or(by_mode(100, 100, 100, 1, 1, 1)),
            payload_bytes: args.payload,
            workers: args.workers.unwrap_or(by_mode(4, 0, 1, 1, 1_000, 4)),
            slots: args.slots.unwrap_or(by_mode(250, 250, 16, 250, 1, 250)),
            rate: args.rate,
            queue: name.clone(),
            kind: match mode {
                Mode::Exec => exec::KIND.to_owned(),
                Mode::Lifecycle | Mode::Submit | Mode::RoundTrip | Mode::Idle | Mode::Mixed => {
                    name.clone()
                }
            },
            name,
        }
    }

    /// Returns the bound on time, if there is one.
    pub fn time(&self) -> Option<Duration> {
        self.seconds.map(Duration::from_secs_f64)
    }
}

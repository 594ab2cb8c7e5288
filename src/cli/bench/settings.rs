//! What a run is to do: the options as given, and what follows from them.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use triarch_sdk::wire::exec;

use super::BenchArgs;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Whole lives: submitted, leased, reported. As fast as it goes.
    Whole,
    /// Submissions alone; nobody runs them.
    Submit,
    /// Processes: `true`, by the worker that `triarch worker` runs.
    Exec,
    /// One after the other: submitted, run, and seen by the client that waits for it.
    RoundTrip,
    /// Many workers that wait, with their heartbeats, and little to do for them.
    Idle,
    /// Submissions, reads and lists beside each other.
    Mixed,
}

/// Everything about a run that is settled before it begins.
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
    /// Of this run alone.
    pub queue: String,
    pub kind: String,
    /// Names of its workers begin with this.
    #[serde(skip)]
    pub name: String,
}

/// With a bound on time this many tasks are as good as without bound.
const TASKS_WITHIN_TIME: u64 = 100_000_000;

impl Settings {
    pub(super) fn of(args: &BenchArgs) -> Self {
        let mode = args.mode;
        let by_mode = |whole, submit, exec, round_trip, idle, mixed| match mode {
            Mode::Whole => whole,
            Mode::Submit => submit,
            Mode::Exec => exec,
            Mode::RoundTrip => round_trip,
            Mode::Idle => idle,
            Mode::Mixed => mixed,
        };
        // Waiting workers are watched for a time; whether they are given something is another question.
        let seconds = match mode {
            Mode::Idle => Some(args.seconds.unwrap_or(10.0)),
            Mode::Whole | Mode::Submit | Mode::Exec | Mode::RoundTrip | Mode::Mixed => args.seconds,
        };
        let tasks_max = args.tasks.unwrap_or_else(|| match (seconds, args.rate) {
            (Some(_), None) if mode == Mode::Idle => 0,
            (Some(_), _) => TASKS_WITHIN_TIME,
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
                Mode::Whole | Mode::Submit | Mode::RoundTrip | Mode::Idle | Mode::Mixed => {
                    name.clone()
                }
            },
            name,
        }
    }

    /// How long to go on, if there is a bound.
    pub fn time(&self) -> Option<Duration> {
        self.seconds.map(Duration::from_secs_f64)
    }
}

//! `triarch bench`: measures a running cluster from end to end.
//!
//! Every run has a queue and a kind of its own, so that it touches no other work and no other worker touches it. It
//! checks its own work: a run whose results are not exactly its tasks fails, however fast it was. And it cleans up after
//! itself, also when it is interrupted: its workers leave, and what it submitted is forgotten.
//!
//! What it deliberately does not do: it starts no cluster, and it compares with nobody (`scripts/bench.sh` does).

mod arrivals;
mod cleanup;
mod exec;
mod idle;
mod latency;
mod ledger;
mod lifecycle;
mod mixed;
mod noop_workers;
mod report;
mod round_trip;
mod server_metrics;
mod settings;
mod submission;

use std::process::ExitCode;
use std::sync::OnceLock;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::output;
use crate::cli::bench::server_metrics::Readings;
use crate::cli::context::Session;
use crate::cli::{Failure, wait};
use idle::Watched;
use ledger::Ledger;
use report::Report;
use settings::{Mode, Settings};

/// Measure a running cluster: rates and latency percentiles, with built-in workers
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What is measured
    #[arg(short, long, value_enum, default_value_t = Mode::Whole)]
    mode: Mode,
    /// How many tasks to submit [default: 10000; without bound when --seconds is given; 1000 in exec and round-trip]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    tasks: Option<u64>,
    /// Submit for so long
    #[arg(short, long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
    /// Connections that submit, each one request at a time [default: 8; 1 in round-trip]
    #[arg(short, long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: Option<u32>,
    /// Tasks in each submission [default: 100; 1 in round-trip, idle and mixed]
    #[arg(short, long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Option<u32>,
    /// Size of each task's payload
    #[arg(short, long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(48..=1_048_576))]
    payload: u32,
    /// Built-in workers [default: 4; 1 in exec and round-trip; 1000 in idle]
    #[arg(short, long, value_name = "W", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    workers: Option<u32>,
    /// Tasks that each worker takes at once [default: 250; 16 in exec; 1 in idle]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    slots: Option<u32>,
    /// Open loop: submit so many tasks a second, however slow the answers are. Latency counts from when a task was due
    #[arg(short, long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    number(text, 0.1, 86_400.0)
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 0.001, 10_000_000.0)
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) => Err(format!("must be from {least} to {most}")),
        Err(_) => Err(format!("'{text}' is not a number")),
    }
}

/// What all modes share.
pub(super) struct Bench<'a> {
    session: &'a Session,
    settings: Settings,
    ledger: Ledger,
    /// In idle runs.
    watched: OnceLock<Watched>,
    /// The run is to end: it is over, it has failed, or its user has seen enough.
    stop: CancellationToken,
}

impl BenchArgs {
    /// Does what was asked.
    pub async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        let bench = Bench {
            session,
            settings: Settings::of(&self),
            ledger: Ledger::new(),
            watched: OnceLock::new(),
            stop: CancellationToken::new(),
        };
        let before = Readings::take(session).await?;
        let measured = bench.interruptible().await;
        bench.stop.cancel();
        let after = Readings::take(session).await;
        // Whatever came of it, nothing is left behind.
        let cleaned = bench.clean(matches!(measured, Ok(Some(())))).await;
        let Some(()) = measured? else {
            cleaned?;
            output::note("Interrupted: what was submitted is forgotten again.");
            return Ok(wait::interrupted());
        };
        let report = Report::of(&bench, &before, &after?, cleaned?);
        output::answer(session.format, &report, Report::for_people)?;
        if let Err(why) = report.judge() {
            return Err(Failure::Failed(format!(
                "the figures above are worth nothing: {why}"
            )));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Bench<'_> {
    /// Measures, until Ctrl-C; then there is nothing.
    async fn interruptible(&self) -> Result<Option<()>, Failure> {
        tokio::select! {
            measured = self.measure() => measured.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    }

    async fn measure(&self) -> Result<(), Failure> {
        match self.settings.mode {
            Mode::Whole => self.whole().await,
            Mode::Submit => self.submit_only().await,
            Mode::Exec => self.exec().await,
            Mode::RoundTrip => self.round_trips().await,
            Mode::Idle => self.idle().await,
            Mode::Mixed => self.mixed().await,
        }
    }
}

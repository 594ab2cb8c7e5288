//! `triarch worker`: runs a worker.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::duration;
use super::logging::LogArgs;
use super::usage_error;
use crate::worker::WorkerOptions;

/// Run a worker
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Queues to take tasks from
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "default"
    )]
    queues: Vec<String>,
    /// Attempts to run at once [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: Option<u32>,
    /// Something tasks may ask for; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// An amount tasks may take a share of; may be repeated
    #[arg(long = "resource", value_name = "KEY=N", value_parser = resource)]
    resources: Vec<(String, u64)>,
    /// The name people see [default: host name and process id]
    #[arg(long)]
    name: Option<String>,
    /// After SIGTERM, how long running attempts may take to finish before they are handed back
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    drain: Duration,
    #[command(flatten)]
    log: LogArgs,
}

impl WorkerArgs {
    /// Runs the worker until it is told to stop.
    pub fn run(self, masters: Vec<String>) -> anyhow::Result<ExitCode> {
        if let Err(message) = self.log.install() {
            return Ok(usage_error(&message));
        }
        let slots = self.slots.unwrap_or_else(processors);
        let options = WorkerOptions {
            masters,
            name: self.name,
            queues: self.queues,
            slots,
            labels: BTreeMap::from_iter(self.labels),
            resources: BTreeMap::from_iter(self.resources),
            drain: self.drain,
        };
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(crate::worker::run(options))
    }
}

fn processors() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// `key=value`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("'{text}' is not KEY=VALUE, such as zone=eu")),
    }
}

/// `key=n`.
fn resource(text: &str) -> Result<(String, u64), String> {
    let wrong = || format!("'{text}' is not KEY=N, such as mem_mb=4096");
    let (key, amount) = label(text).map_err(|_| wrong())?;
    Ok((key, amount.parse().map_err(|_| wrong())?))
}

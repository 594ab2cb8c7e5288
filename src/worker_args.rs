//! `triarch worker`: runs a worker, or administers those of a cluster.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use triarch_cli::{WorkerAdministration, duration, label, resource, usage_error};
use triarch_worker::{PassedEnvironment, TaskLimits, WorkerOptions};

use crate::logging::LogArgs;

/// Runs a worker, or administers the workers of a cluster
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub administration: WorkerAdministration,
    #[command(flatten)]
    pub run: RunArgs,
}

/// Options of a worker to be run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Queues from which the worker takes tasks
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "default"
    )]
    queues: Vec<String>,
    /// Maximum concurrent attempts [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: Option<u32>,
    /// Label that tasks may require; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Resource and its amount, of which each task may require a part; may be repeated
    #[arg(long = "resource", value_name = "KEY=N", value_parser = resource)]
    resources: Vec<(String, u64)>,
    /// Display name of the worker [default: host name and process id]
    #[arg(long)]
    name: Option<String>,
    /// Time after SIGTERM in which running attempts may finish before they are handed back
    #[arg(long, value_name = "DURATION", alias = "drain", default_value = "30s", value_parser = duration::parse)]
    pub shutdown_timeout: Duration,
    /// Environment variables of the worker that tasks get too, or '*' for all; may be repeated
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        num_args = 1..,
        value_parser = PassedEnvironment::parse_name,
        help_heading = "Tasks",
        long_help = "Environment variables of the worker that tasks get too, or '*' for all; may be repeated. Tasks always \
                     get PATH, HOME, USER, SHELL, LANG, LC_*, TZ, TMPDIR, LD_LIBRARY_PATH, VIRTUAL_ENV and what they set \
                     themselves; they never get TRIARCH_AUTH_*"
    )]
    pass_env: Vec<String>,
    /// User that tasks run as; the worker must run as root
    #[arg(long, value_name = "USER", help_heading = "Tasks")]
    run_as: Option<String>,
    /// Maximum memory of each task, such as 512M or 2G; needs a writable control group
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = "Tasks")]
    memory_max: Option<u64>,
    /// Maximum processes and threads of each task; needs a writable control group
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Tasks")]
    pids_max: Option<u64>,
    #[command(flatten)]
    log: LogArgs,
}

impl RunArgs {
    /// Runs the worker until it is stopped.
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
            shutdown_timeout: self.shutdown_timeout,
            pass_env: self.pass_env,
            run_as: self.run_as,
            task_limits: TaskLimits {
                memory_bytes: self.memory_max,
                pids: self.pids_max,
            },
        };
        triarch_worker::run(options)
    }
}

fn processors() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Minimum of `--memory-max`: with less, no program starts.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// Parses a number of bytes, with a unit of 1,024 if one is given.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no number of bytes, such as 512M or 2G");
    let upper = text.trim().to_ascii_uppercase();
    let number = upper.trim_end_matches('B').trim_end_matches('I');
    let (digits, shift) = match number.char_indices().last() {
        Some((at, 'K')) => (&number[..at], 10),
        Some((at, 'M')) => (&number[..at], 20),
        Some((at, 'G')) => (&number[..at], 30),
        Some((at, 'T')) => (&number[..at], 40),
        _ => (number, 0),
    };
    let count: u64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = count.checked_mul(1 << shift).ok_or_else(wrong)?;
    if bytes < MEMORY_BYTES_MIN {
        return Err(format!(
            "'{text}' is less than 1M, with which no program starts"
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn numbers_of_bytes_have_units_of_1024() {
        for (text, expected) in [
            ("1048576", 1 << 20),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("2GiB", 2 << 30),
            ("2048K", 2 << 20),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "M", "-1M", "1.5G", "64X", "99999999999T", "1000", "IB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}

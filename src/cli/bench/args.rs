//! Arguments of `triarch bench`.

use clap::Args;

use super::mode::Mode;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Workload to measure
    #[arg(short, long, value_enum, default_value_t = Mode::Lifecycle)]
    pub mode: Mode,
    /// Number of tasks to submit [default: 10000; 1000 in exec and round-trip; no bound with --seconds]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub tasks: Option<u64>,
    /// Duration of submissions in seconds [default: 10 in idle; otherwise no limit]
    #[arg(short, long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Number of connections that submit, each one request at a time [default: 8; 1 in round-trip]
    #[arg(short, long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: Option<u32>,
    /// Number of tasks in each submission [default: 100; 1 in round-trip, idle and mixed]
    #[arg(short, long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: Option<u32>,
    /// Size of each task's payload in bytes
    #[arg(short, long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(48..=1_048_576))]
    pub payload: u32,
    /// Number of built-in workers [default: 4; 0 in submit; 1 in exec and round-trip; 1000 in idle]
    #[arg(short, long, value_name = "W", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub workers: Option<u32>,
    /// Maximum concurrent tasks of each worker [default: 250; 16 in exec; 1 in idle]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub slots: Option<u32>,
    /// Open loop: tasks due per second, regardless of the speed of answers. Latency counts from when a task was due.
    /// Without this option, each client submits again as soon as it has its answer
    #[arg(short, long, value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::BenchArgs;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn the_old_spelling_of_a_mode_is_still_accepted() {
        for mode in ["lifecycle", "whole"] {
            let command = Command::try_parse_from(["bench", "--mode", mode]).expect(mode);
            let written = serde_json::to_value(command.args.mode).expect("plain");
            assert_eq!(written, "whole", "{mode}");
        }
    }
}

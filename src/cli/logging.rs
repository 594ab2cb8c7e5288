//! Logging of long-running commands: to stderr, as text or as JSON for log collectors.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::log_writer;

/// Log options of a long-running command: the level and the format.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Log level, or levels by module such as `info,triarch_raft=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "TRIARCH_LOG",
        default_value = "info,openraft=error",
        help_heading = "Logging"
    )]
    log: String,
    /// Format of the log: one line of text or one JSON object per event
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    log_format: LogFormat,
}

/// The shape of one logged event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    /// Installs the process's logger. The error is a sentence for the user.
    pub fn install(&self) -> Result<(), String> {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| {
            format!("invalid value '{}' for '--log <FILTER>': {error}", self.log)
        })?;
        let base = tracing_subscriber::fmt().with_env_filter(filter);
        match self.log_format {
            LogFormat::Text => base
                .with_ansi(log_writer::is_terminal())
                .with_writer(|| log_writer::Stderr::Text)
                .init(),
            LogFormat::Json => base.json().with_writer(|| log_writer::Stderr::Json).init(),
        }
        Ok(())
    }
}

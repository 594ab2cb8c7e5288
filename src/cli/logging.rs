//! Logging of long-running commands: to stderr, as text or as JSON for log collectors.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
        let wrong =
            |why: String| format!("invalid value '{}' for '--log <FILTER>': {why}", self.log);
        check_levels(&self.log).map_err(wrong)?;
        let filter = EnvFilter::try_new(&self.log).map_err(|error| wrong(error.to_string()))?;
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

/// Refuses a word that is no level. The filter would take it for the name of a module, and log nothing else.
fn check_levels(filter: &str) -> Result<(), String> {
    let words = filter.split(',').map(str::trim);
    for word in words.filter(|word| !word.is_empty() && !word.contains(['=', '['])) {
        if word.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "'{word}' is no level; write off, error, warn, info, debug or trace, or MODULE=LEVEL"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_levels;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for filter in [
            "info",
            "WARN",
            "info,triarch_raft=debug",
            "off",
            "",
            "triarch[task]=trace",
        ] {
            assert_eq!(check_levels(filter), Ok(()), "{filter}");
        }
        for filter in ["inof", "info,bogus", "triarch_raft", "zzz,info"] {
            let why = check_levels(filter).expect_err(filter);
            assert!(why.contains("MODULE=LEVEL"), "{why}");
        }
    }
}

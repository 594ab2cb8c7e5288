//! Logging of long-running commands: to stderr, as text or as JSON for log collectors.

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};
use triarch_process::log_writer;

/// Beginnings of the targets of log lines from before the program was several crates, and those of today. Filters with
/// the former ones keep their meaning.
const FORMER_TARGETS: [(&str, &str); 3] = [
    ("triarch::worker", "triarch_worker"),
    ("triarch::signals", "triarch_process::signals"),
    ("triarch::", "triarch_node::"),
];

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
        let filter = parse(&self.log)
            .map_err(|why| format!("invalid value '{}' for '--log <FILTER>': {why}", self.log))?;
        let lines = match self.log_format {
            LogFormat::Text => fmt::layer()
                .with_ansi(log_writer::is_terminal())
                .with_writer(|| log_writer::Stderr::Text)
                .boxed(),
            LogFormat::Json => fmt::layer()
                .json()
                .with_writer(|| log_writer::Stderr::Json)
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .init();
        Ok(())
    }
}

/// Parses levels, and targets with a level each. Without any, errors are logged. The error is a sentence for the user.
fn parse(filter: &str) -> Result<Targets, String> {
    let words = filter.split(',').map(str::trim);
    let mut words = words.filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Ok(Targets::new().with_default(LevelFilter::ERROR));
    }
    let mut targets = Targets::new();
    for word in words {
        let (target, level) = match word.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, word),
        };
        let known = level.parse::<LevelFilter>().ok();
        let Some(level) = known.filter(|_| target != Some("") && !word.contains(['[', ']'])) else {
            return Err(format!(
                "'{word}' is no level; write off, error, warn, info, debug or trace, or MODULE=LEVEL"
            ));
        };
        targets = match target {
            Some(target) => targets.with_target(current(target), level),
            None => targets.with_default(level),
        };
    }
    Ok(targets)
}

/// Returns the target of today for a former one, and every other one as it is.
fn current(target: &str) -> String {
    let renamed = FORMER_TARGETS.iter().find_map(|(former, today)| {
        let rest = target.strip_prefix(former)?;
        Some(format!("{today}{rest}"))
    });
    renamed.unwrap_or_else(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter;

    use super::parse;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for filter in [
            "info",
            "WARN",
            "info,triarch_raft=debug",
            "off",
            "",
            "info, ",
            "2",
        ] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        for filter in [
            "inof",
            "info,bogus",
            "triarch_raft",
            "zzz,info",
            "triarch_raft=bogus",
            "=info",
            "triarch[task]=trace",
        ] {
            let why = parse(filter).expect_err(filter);
            assert!(why.contains("MODULE=LEVEL"), "{why}");
        }
    }

    #[test]
    fn a_module_has_its_own_level_and_others_the_default() {
        let filter = parse("warn, triarch_raft=debug,openraft=off").expect("valid");
        for (target, level, enabled) in [
            ("triarch_raft::node", tracing::Level::DEBUG, true),
            ("triarch_raft::node", tracing::Level::TRACE, false),
            ("triarch_node::server::run", tracing::Level::WARN, true),
            ("triarch_node::server::run", tracing::Level::INFO, false),
            ("openraft::core", tracing::Level::ERROR, false),
        ] {
            assert_eq!(
                filter.would_enable(target, &level),
                enabled,
                "{target} {level}"
            );
        }
        assert_eq!(filter.default_level(), Some(LevelFilter::WARN));
        let empty = parse("").expect("valid");
        assert_eq!(empty.default_level(), Some(LevelFilter::ERROR));
    }

    #[test]
    fn targets_from_before_there_were_several_crates_keep_their_meaning() {
        for (former, target) in [
            ("triarch::leader", "triarch_node::leader::loops"),
            (
                "triarch::server::http",
                "triarch_node::server::http::listener",
            ),
            ("triarch::worker", "triarch_worker::exec"),
            ("triarch::worker::exec", "triarch_worker::exec"),
            ("triarch::signals", "triarch_process::signals"),
            ("triarch", "triarch_node::leader"),
            ("triarch", "triarch_raft::node"),
        ] {
            let filter = parse(&format!("off,{former}=debug")).expect("valid");
            assert!(
                filter.would_enable(target, &tracing::Level::DEBUG),
                "{former}"
            );
            assert!(!filter.would_enable("openraft", &tracing::Level::ERROR));
        }
    }
}

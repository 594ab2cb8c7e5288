//! Errors of a command: its exit code, and its message for the user.

use std::io;
use std::process::ExitCode;

use triarch_sdk::wire::{Problem, ProblemCode};
use triarch_sdk::{Error, Tried};

use super::{output, shell};

/// Exit code of an operation that was carried out and failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of an invalid command line; the same one clap uses.
pub const EXIT_USAGE: u8 = 2;
/// Exit code when no cluster can be reached.
pub const EXIT_UNREACHABLE: u8 = 3;

/// Reason for which a command failed.
#[derive(Debug)]
pub enum CommandError {
    /// The cluster refused the request, or the operation failed.
    Failed(String),
    /// The command line is invalid.
    Usage(String),
    /// No master could be reached.
    Unreachable(String),
    /// Reading or writing something local failed.
    Io(io::Error),
}

impl CommandError {
    /// Prints the message to stderr and returns the exit code.
    pub fn report(self) -> ExitCode {
        let (code, message) = match self {
            CommandError::Failed(message) => (EXIT_FAILED, message),
            CommandError::Usage(message) => (EXIT_USAGE, message),
            CommandError::Unreachable(message) => (EXIT_UNREACHABLE, message),
            // The reader of our output has closed the pipe, as `head` does. That is no failure, and no reader is left
            // for a message.
            CommandError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            CommandError::Io(error) => (EXIT_FAILED, error.to_string()),
        };
        output::print_error(&message);
        ExitCode::from(code)
    }
}

/// Reports an invalid command line that clap cannot detect by itself.
pub fn usage_error(message: &str) -> ExitCode {
    output::print_note(&format!(
        "error: {message}\n\nFor more information, try '--help'."
    ));
    ExitCode::from(EXIT_USAGE)
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        CommandError::Io(error)
    }
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoCluster { tried } => CommandError::Unreachable(format!(
                "no cluster can be reached:\n{}\nTo start one on this machine, run `{} dev`. To use another one, set \
                 --masters or TRIARCH_MASTERS.",
                each(&tried),
                shell::program_name()
            )),
            Error::Timeout {
                tried, deadline_ms, ..
            } => CommandError::Unreachable(format!(
                "the cluster did not answer within {} s:\n{}\nThe outcome is unknown: the operation may or may not have taken effect.",
                deadline_ms / 1_000,
                each(&tried)
            )),
            Error::Api(problem) if problem.is(ProblemCode::NoLeader) => {
                CommandError::Unreachable(format!(
                    "the cluster has no leader: {}\nA majority of its masters must be up and reach each other; see `{} cluster \
                 status`.",
                    problem.detail,
                    shell::program_name()
                ))
            }
            Error::Api(problem) => CommandError::Failed(refusal(*problem)),
            Error::Protocol { .. } => CommandError::Failed(error.to_string()),
            Error::Usage(message) => CommandError::Usage(message),
        }
    }
}

/// Formats a refusal as text. It omits codes and statuses, because programs read `code` in the answer itself.
fn refusal(problem: Problem) -> String {
    let said = if problem.detail.is_empty() {
        problem.title
    } else {
        problem.detail
    };
    match problem.field {
        Some(field) if !said.contains(&field) => format!("{field}: {said}"),
        Some(_) | None => said,
    }
}

/// Formats one line per master.
fn each(tried: &[Tried]) -> String {
    let line = |one: &Tried| {
        format!(
            "  {}  {}",
            one.master.as_str().trim_end_matches('/'),
            one.message
        )
    };
    tried.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried() -> Vec<Tried> {
        ["http://a:1", "http://b:2"]
            .map(|url| Tried {
                master: url.parse().expect("valid"),
                message: "connection refused".into(),
            })
            .to_vec()
    }

    #[test]
    fn an_unreachable_cluster_is_reported_with_every_master_and_the_next_step() {
        let CommandError::Unreachable(said) =
            CommandError::from(Error::NoCluster { tried: tried() })
        else {
            panic!("wrong kind")
        };
        for part in [
            "http://a:1",
            "http://b:2",
            "connection refused",
            " dev`",
            "--masters",
        ] {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
    }

    #[test]
    fn errors_of_the_client_map_to_kinds_of_command_errors() {
        let api = |code| CommandError::from(Error::Api(Box::new(Problem::new(code, "because"))));
        assert!(matches!(
            api(ProblemCode::NotFound),
            CommandError::Failed(_)
        ));
        assert!(matches!(
            api(ProblemCode::Conflict),
            CommandError::Failed(_)
        ));
        assert!(matches!(
            api(ProblemCode::NoLeader),
            CommandError::Unreachable(_)
        ));
        let timeout = Error::Timeout {
            request_id: None,
            deadline_ms: 1_000,
            tried: tried(),
        };
        assert!(matches!(
            CommandError::from(timeout),
            CommandError::Unreachable(_)
        ));
        assert!(matches!(
            CommandError::from(Error::Usage("no".into())),
            CommandError::Usage(_)
        ));
    }

    #[test]
    fn a_closed_pipe_exits_with_success() {
        let gone = CommandError::Io(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(
            format!("{:?}", gone.report()),
            format!("{:?}", ExitCode::SUCCESS)
        );
    }

    #[test]
    fn a_refused_field_is_named_in_the_message() {
        let problem = Problem::new(ProblemCode::InvalidRequest, "must be 0 to 9")
            .with_field("tasks[3].priority");
        assert_eq!(refusal(problem), "tasks[3].priority: must be 0 to 9");
    }
}

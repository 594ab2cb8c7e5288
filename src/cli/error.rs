//! How a client command fails: which exit code, and what the user is told.

use std::io;
use std::process::ExitCode;

use triarch_sdk::wire::{Problem, ProblemCode};
use triarch_sdk::{Error, Tried};

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// The cluster answered, and the answer is no; or the thing asked for failed.
    Failed(String),
    /// The command line makes no sense.
    Usage(String),
    /// No master could be talked to.
    Unreachable(String),
    /// Reading or writing something local failed.
    Io(io::Error),
}

impl Failure {
    /// Tells the user, on stderr, and names the exit code.
    pub fn report(self) -> ExitCode {
        let (code, message) = match self {
            Failure::Failed(message) => (super::EXIT_FAILED, message),
            Failure::Usage(message) => (super::EXIT_USAGE, message),
            Failure::Unreachable(message) => (super::EXIT_UNREACHABLE, message),
            // Whoever read our output has seen enough, as `head` does. There is nobody left to tell, and no harm done.
            Failure::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Failure::Io(error) => (super::EXIT_FAILED, error.to_string()),
        };
        super::complain(&message);
        ExitCode::from(code)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NoCluster { tried } => Failure::Unreachable(format!(
                "no cluster can be reached:\n{}\nIs one running? `{} dev` starts one on this machine; --masters or \
                 TRIARCH_MASTERS says where another one is.",
                each(&tried),
                super::called_as()
            )),
            Error::Timeout {
                tried, deadline_ms, ..
            } => Failure::Unreachable(format!(
                "the cluster did not answer within {} s:\n{}\nWhat was asked for may or may not have happened.",
                deadline_ms / 1_000,
                each(&tried)
            )),
            Error::Api(problem) if problem.is(ProblemCode::NoLeader) => {
                Failure::Unreachable(format!(
                    "the cluster has no leader: {}\nMost of its masters must be up and reach each other; see `{} cluster \
                 status`.",
                    problem.detail,
                    super::called_as()
                ))
            }
            Error::Api(problem) => Failure::Failed(refusal(*problem)),
            Error::Protocol { .. } => Failure::Failed(error.to_string()),
            Error::Usage(message) => Failure::Usage(message),
        }
    }
}

/// Codes and statuses are for programs; they read `code` in the answer itself.
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

/// One line per master.
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
    fn no_cluster_is_told_with_every_master_and_a_way_out() {
        let Failure::Unreachable(said) = Failure::from(Error::NoCluster { tried: tried() }) else {
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
    fn kinds_of_failure_have_their_own_exit_codes() {
        let api = |code| Failure::from(Error::Api(Box::new(Problem::new(code, "because"))));
        assert!(matches!(api(ProblemCode::NotFound), Failure::Failed(_)));
        assert!(matches!(api(ProblemCode::Conflict), Failure::Failed(_)));
        assert!(matches!(
            api(ProblemCode::NoLeader),
            Failure::Unreachable(_)
        ));
        let timeout = Error::Timeout {
            request_id: None,
            deadline_ms: 1_000,
            tried: tried(),
        };
        assert!(matches!(Failure::from(timeout), Failure::Unreachable(_)));
        assert!(matches!(
            Failure::from(Error::Usage("no".into())),
            Failure::Usage(_)
        ));
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        let gone = Failure::Io(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(
            format!("{:?}", gone.report()),
            format!("{:?}", ExitCode::SUCCESS)
        );
    }

    #[test]
    fn a_refused_field_is_named() {
        let problem = Problem::new(ProblemCode::InvalidRequest, "must be 0 to 9")
            .with_field("tasks[3].priority");
        assert_eq!(refusal(problem), "tasks[3].priority: must be 0 to 9");
    }
}

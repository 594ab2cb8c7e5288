//! Errors of calls.

use url::Url;

use crate::wire::Problem;

/// The reason why a call has no answer. The variants differ in what the caller may conclude from them.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No master accepted the call, so it changed nothing.
    #[error("no cluster could be reached: {}", list(tried))]
    NoCluster {
        /// The latest failure on each master.
        tried: Vec<Tried>,
    },
    /// The cluster refused the call, so it changed nothing.
    #[error("{0}")]
    Api(Box<Problem>),
    /// No answer came after the call had been sent: it may or may not have taken effect. Repeating it with the same
    /// request id is safe. A change without a request id is not repeated: look at its effect first.
    #[error(
        "no answer within {deadline_ms} ms, so the outcome is unknown{}: {}",
        again(request_id),
        list(tried)
    )]
    Timeout {
        /// The request id of the change. `None` when the call only reads.
        request_id: Option<String>,
        /// The deadline of the call, in ms.
        deadline_ms: u64,
        /// The latest failure on each master.
        tried: Vec<Tried>,
    },
    /// The answer does not follow the protocol of the cluster.
    #[error("{master} sent an answer that is not understood: {message}")]
    Protocol {
        /// The master that answered.
        master: Url,
        /// A description of the violation.
        message: String,
    },
    /// The caller made a mistake, and nothing was sent.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Returns the cluster's refusal, if this is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Api(problem) => Some(problem),
            Error::NoCluster { .. }
            | Error::Timeout { .. }
            | Error::Protocol { .. }
            | Error::Usage(_) => None,
        }
    }
}

/// The failure of an attempt on one master.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The master.
    pub master: Url,
    /// A description of the failure.
    pub message: String,
}

fn list(tried: &[Tried]) -> String {
    let words: Vec<String> = tried
        .iter()
        .map(|one| {
            format!(
                "{}: {}",
                one.master.as_str().trim_end_matches('/'),
                one.message
            )
        })
        .collect();
    words.join("; ")
}

fn again(request_id: &Option<String>) -> String {
    match request_id {
        Some(id) => format!(" (safe to retry with request id {id})"),
        None => String::new(),
    }
}

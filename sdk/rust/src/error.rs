//! What can come of a call instead of its answer.

use url::Url;

use crate::wire::Problem;

/// Why a call has no answer. The variants differ in what the caller may conclude from them.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No master took the call; nothing was changed by it.
    #[error("no cluster could be reached: {}", list(tried))]
    NoCluster {
        /// What became of the latest try on each master.
        tried: Vec<Tried>,
    },
    /// The cluster refused; nothing was changed.
    #[error("{0}")]
    Api(Box<Problem>),
    /// The time ran out after the call had been sent: it may or may not have taken effect. Asking again with the same
    /// request id is safe.
    #[error(
        "no answer within {deadline_ms} ms, so the outcome is unknown{}: {}",
        again(request_id),
        list(tried)
    )]
    Timeout {
        /// Names the change that was asked for; `None` when the call only reads.
        request_id: Option<String>,
        /// How long was waited.
        deadline_ms: u64,
        /// What became of the latest try on each master.
        tried: Vec<Tried>,
    },
    /// Something answered that does not speak the cluster's language.
    #[error("{master} answered in a way that is not understood: {message}")]
    Protocol {
        /// Who.
        master: Url,
        /// What was wrong.
        message: String,
    },
    /// The caller's own mistake; nothing was sent.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// The cluster's refusal, if it is one.
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

/// What became of a try on one master.
#[derive(Debug, Clone)]
pub struct Tried {
    /// Which.
    pub master: Url,
    /// What went wrong, in words.
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
        Some(id) => format!(" (safe to ask again with request id {id})"),
        None => String::new(),
    }
}

//! What attempts write while they run: how workers send it, and how it is read and followed.
//!
//! Text is counted in bytes of UTF-8 from the beginning of a stream; bytes that are not UTF-8 have been replaced before.

use serde::{Deserialize, Serialize};

use super::Consistency;
use super::task::TaskState;

/// Where something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// What it has to say.
    Stdout,
    /// What is to be said about it.
    Stderr,
}

impl OutputStream {
    /// Both of them.
    pub const ALL: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            OutputStream::Stdout => "stdout",
            OutputStream::Stderr => "stderr",
        }
    }
}

/// Body of `POST /v1/workers/{id}/output`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SendOutput {
    /// In the order they were written.
    pub chunks: Vec<SentChunk>,
}

/// A piece of what an attempt wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SentChunk {
    /// The task.
    pub task: String,
    /// The lease it runs under.
    pub token: u64,
    /// Which of its streams.
    pub stream: OutputStream,
    /// Where in the stream it begins.
    pub offset: u64,
    /// What stood before it may be missing for good: the worker does not have it any more. Without this, a piece that
    /// does not follow on what the leader has is not taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gap: bool,
    /// What was written.
    pub text: String,
}

/// Answer to [`SendOutput`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SendOutputAnswer {
    /// How far the leader is with each attempt that was sent something of. One that is missing here runs under a lease
    /// that is not this worker's (any more).
    #[serde(default)]
    pub attempts: Vec<OutputEnds>,
}

/// See [`SendOutputAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputEnds {
    /// The task.
    pub task: String,
    /// The lease.
    pub token: u64,
    /// Where the next piece of its stdout is to begin.
    pub stdout: u64,
    /// Where the next piece of its stderr is to begin.
    pub stderr: u64,
}

/// Query of `GET /v1/tasks/{id}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// Which attempt; the latest unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Holds an answer that would be empty until there is something, but no longer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow_ms: Option<u64>,
    /// Where to begin in its stdout; 0 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_from: Option<u64>,
    /// Where to begin in its stderr; 0 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_from: Option<u64>,
    /// See [`Consistency`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Answer to [`LogsQuery`]: what one attempt wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Logs {
    /// The task.
    pub task: String,
    /// The attempt; 0 when there has been none.
    pub attempt: u32,
    /// The task's state.
    pub state: TaskState,
    /// In the order they were written, as far as that is known.
    pub chunks: Vec<LogChunk>,
    /// How to ask for what comes after.
    pub next: LogsNext,
    /// Something is missing before or between the chunks: a chunk's offset says where.
    pub truncated: bool,
    /// The task is terminal, and this is the last there is to read of it.
    pub done: bool,
}

/// See [`Logs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogChunk {
    /// Which stream.
    pub stream: OutputStream,
    /// Where in the stream it begins.
    pub offset: u64,
    /// What was written.
    pub text: String,
}

/// See [`Logs`]: the query that goes on where an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogsNext {
    /// The same attempt, or the next one when this one is told.
    pub attempt: u32,
    /// As in [`LogsQuery`].
    pub stdout_from: u64,
    /// As in [`LogsQuery`].
    pub stderr_from: u64,
}

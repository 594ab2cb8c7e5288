//! Live output of attempts: the calls by which workers send it, and by which clients read it.
//!
//! Text is counted in bytes of UTF-8 from the beginning of a stream; bytes that are not UTF-8 have been replaced
//! before.

use serde::{Deserialize, Serialize};

use super::Consistency;
use super::task::TaskState;
use super::worker::PartProblem;

/// Output stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// Both streams.
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
    /// Chunks of output, in the order in which they were written.
    pub chunks: Vec<SentChunk>,
}

/// One chunk of an attempt's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SentChunk {
    /// Id of the task.
    pub task: String,
    /// Fencing token of the attempt's lease.
    pub token: u64,
    /// Stream that the chunk belongs to.
    pub stream: OutputStream,
    /// Position of the chunk in the stream, in bytes.
    pub offset: u64,
    /// Whether output before the chunk may be missing permanently, because the worker no longer has it. Without this
    /// flag, the leader rejects a chunk that does not follow what it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gap: bool,
    /// Text that was written.
    pub text: String,
}

/// Response of `POST /v1/workers/{id}/output`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SendOutputAnswer {
    /// Progress of the leader for each attempt in the request. An attempt is absent if its lease is not, or no longer,
    /// held by this worker.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub attempts: Vec<OutputEnds>,
    /// Chunks of the request that were wrong. They were dropped or repaired, and all others were taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<PartProblem>,
}

/// Progress of the leader with the output of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputEnds {
    /// Id of the task.
    pub task: String,
    /// Fencing token of the attempt's lease.
    pub token: u64,
    /// Position at which the next chunk of its stdout must begin, in bytes.
    pub stdout: u64,
    /// Position at which the next chunk of its stderr must begin, in bytes.
    pub stderr: u64,
}

/// Query of `GET /v1/tasks/{id}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// Number of the attempt. Default: the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Maximum time in ms to hold an empty response until there is output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow_ms: Option<u64>,
    /// Position in its stdout to read from, in bytes. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_from: Option<u64>,
    /// Position in its stderr to read from, in bytes. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_from: Option<u64>,
    /// Freshness of the read. Default: `linearizable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Response of `GET /v1/tasks/{id}/logs`: output of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Logs {
    /// Id of the task.
    pub task: String,
    /// Number of the attempt; 0 if there has been none.
    pub attempt: u32,
    /// State of the task.
    pub state: TaskState,
    /// Chunks of output, in the order in which they were written, as far as it is known.
    pub chunks: Vec<LogChunk>,
    /// Query parameters that continue after this response.
    pub next: LogsNext,
    /// Whether output is missing before or between the chunks. The offsets of the chunks show where.
    pub truncated: bool,
    /// Whether the task is terminal and this response ends its output.
    pub done: bool,
}

/// One chunk of an attempt's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogChunk {
    /// Stream that the chunk belongs to.
    pub stream: OutputStream,
    /// Position of the chunk in the stream, in bytes.
    pub offset: u64,
    /// Text that was written.
    pub text: String,
}

/// Query parameters that continue after a response of `GET /v1/tasks/{id}/logs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogsNext {
    /// Number of the same attempt, or of the next one if the output of this one is complete.
    pub attempt: u32,
    /// Position in stdout to continue from, in bytes.
    pub stdout_from: u64,
    /// Position in stderr to continue from, in bytes.
    pub stderr_from: u64,
}

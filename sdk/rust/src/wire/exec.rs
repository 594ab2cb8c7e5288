//! Tasks of kind `exec`: a command line and its outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Kind of the tasks that these types belong to.
pub const KIND: &str = "exec";

/// Payload of an `exec` task: the command to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecPayload {
    /// Program and its arguments, run without a shell.
    pub argv: Vec<String>,
    /// Environment variables, in addition to those of the worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Text written to standard input, which is then closed. Default: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Working directory. Default: that of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

impl ExecPayload {
    /// Returns the command as the payload of a task.
    pub fn to_raw(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(self).expect("strings and maps of strings always serialize")
    }
}

/// Result of a command that exited with code 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecResult {
    /// Exit code, which is 0.
    pub exit_code: i32,
    /// Standard output, up to a limit; bytes that are not valid UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, up to a limit; bytes that are not valid UTF-8 are replaced.
    pub stderr: String,
    /// Whether the output exceeded the limit, so that a part of it is missing.
    pub truncated: bool,
    /// Duration of the run in ms.
    pub duration_ms: u64,
}

/// Error of a command that did not exit with code 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecError {
    /// Type of the error: `exit`, `signal`, `timeout`, `spawn` or `invalid_payload`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Description of the error for readers.
    pub message: String,
    /// Exit code, if the command exited.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Name of the signal that killed the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Standard output, up to a limit; bytes that are not valid UTF-8 are replaced.
    #[serde(default)]
    pub stdout: String,
    /// Standard error, up to a limit; bytes that are not valid UTF-8 are replaced.
    #[serde(default)]
    pub stderr: String,
    /// Whether the output exceeded the limit, so that a part of it is missing.
    #[serde(default)]
    pub truncated: bool,
    /// Duration of the run in ms.
    #[serde(default)]
    pub duration_ms: u64,
}

//! Tasks of kind `exec`: a command line, and what came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The kind of task these types belong to.
pub const KIND: &str = "exec";

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExecPayload {
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Set on top of the worker's own environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Written to standard input, which is then closed; empty unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Working directory; the worker's own unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

impl ExecPayload {
    /// As the payload of a task.
    pub fn to_raw(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(self).expect("strings and maps of strings always serialize")
    }
}

/// Result of a command that ended with exit code 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecResult {
    /// 0.
    pub exit_code: i32,
    /// What it wrote, up to a limit; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote, up to a limit; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// It wrote more than is kept.
    pub truncated: bool,
    /// From start to end.
    pub duration_ms: u64,
}

/// Error of a command that ended otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecError {
    /// `exit`, `signal`, `timeout`, `spawn` or `invalid_payload`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
    /// When it exited.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Name of the signal that killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// See [`ExecResult::stdout`].
    #[serde(default)]
    pub stdout: String,
    /// See [`ExecResult::stderr`].
    #[serde(default)]
    pub stderr: String,
    /// See [`ExecResult::truncated`].
    #[serde(default)]
    pub truncated: bool,
    /// See [`ExecResult::duration_ms`].
    #[serde(default)]
    pub duration_ms: u64,
}

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
    /// Environment variables, in addition to those that the worker passes on.
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

    /// Checks what a program can be started with.
    pub fn check(&self) -> Result<(), InvalidPayload> {
        let invalid = |field: String, detail: &str| {
            Err(InvalidPayload {
                field,
                detail: detail.to_owned(),
            })
        };
        match self.argv.first() {
            None => return invalid("argv".to_owned(), "is empty: it must name a program"),
            Some(program) if program.is_empty() => {
                return invalid("argv[0]".to_owned(), "is empty: it must name a program");
            }
            Some(_) => {}
        }
        for (position, argument) in self.argv.iter().enumerate() {
            if argument.contains('\0') {
                return invalid(format!("argv[{position}]"), "contains a NUL character");
            }
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                let detail = format!("has an invalid name of a variable: {name:?}");
                return invalid("env".to_owned(), &detail);
            }
            if value.contains('\0') {
                return invalid(format!("env.{name}"), "contains a NUL character");
            }
        }
        match self.cwd.as_deref() {
            Some("") => invalid(
                "cwd".to_owned(),
                "is empty: it must be the path of a directory",
            ),
            Some(cwd) if cwd.contains('\0') => {
                invalid("cwd".to_owned(), "contains a NUL character")
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Reason why no program can be started with a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPayload {
    /// Field of the payload, such as `argv[0]`.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

/// Part of a stream that is left out between its beginning and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Omitted {
    /// Position in the kept output, in bytes: where the beginning ends.
    pub at: u64,
    /// Number of bytes left out.
    pub bytes: u64,
    /// Position in the whole stream at which the end begins, in bytes.
    pub resumes_at: u64,
}

impl Omitted {
    /// Returns the line that stands between the beginning and the end in a text.
    pub fn marker(&self) -> String {
        format!("\n[triarch: {} bytes are left out here]\n", self.bytes)
    }
}

/// Bytes of a stream that is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RawOutput {
    /// The bytes, in Base64 (RFC 4648, with padding): all of them, or the beginning followed by the end.
    pub base64: String,
    /// Part of the stream that is left out of these bytes, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<Omitted>,
}

/// Result of a command that exited with code 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecResult {
    /// Exit code, which is 0.
    pub exit_code: i32,
    /// Standard output. Of a longer one the beginning and the end, with a line between them that says how many bytes are
    /// left out. Bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, in the same form.
    pub stderr: String,
    /// Whether a part of the output is missing.
    pub truncated: bool,
    /// Part of standard output that is left out of `stdout`, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_omitted: Option<Omitted>,
    /// Part of standard error that is left out of `stderr`, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_omitted: Option<Omitted>,
    /// Bytes of standard output. Present only if they are not UTF-8, so that some were replaced in `stdout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_raw: Option<RawOutput>,
    /// Bytes of standard error. Present only if they are not UTF-8, so that some were replaced in `stderr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_raw: Option<RawOutput>,
    /// Duration of the run in ms.
    pub duration_ms: u64,
}

/// Error of a command that did not exit with code 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Standard output. Of a longer one the beginning and the end, with a line between them that says how many bytes are
    /// left out. Bytes that are not UTF-8 are replaced.
    #[serde(default)]
    pub stdout: String,
    /// Standard error, in the same form.
    #[serde(default)]
    pub stderr: String,
    /// Whether a part of the output is missing.
    #[serde(default)]
    pub truncated: bool,
    /// Part of standard output that is left out of `stdout`, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_omitted: Option<Omitted>,
    /// Part of standard error that is left out of `stderr`, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_omitted: Option<Omitted>,
    /// Bytes of standard output. Present only if they are not UTF-8, so that some were replaced in `stdout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_raw: Option<RawOutput>,
    /// Bytes of standard error. Present only if they are not UTF-8, so that some were replaced in `stderr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_raw: Option<RawOutput>,
    /// Duration of the run in ms.
    #[serde(default)]
    pub duration_ms: u64,
}

//! Parts of error messages: the root cause of a transport error, and the quoted beginning of an answer.

/// Maximum number of characters quoted from an answer that this client cannot parse.
const QUOTE_CHARS_MAX: usize = 200;

/// Returns the message of the innermost error, which describes the cause. The outer ones repeat the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Returns the beginning of a body as text.
pub(super) fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut quoted: String = text.chars().take(QUOTE_CHARS_MAX).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    quoted
}

//! Validation of ids, names and texts in requests.

use std::str::FromStr;

use super::problem::{Code, Problem};

/// Maximum length of an id, name or key, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// Parses an id from a path. A text that cannot be an id gives 404, because it names nothing.
pub fn parse_id<T: FromStr>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(NAME_BYTES_MAX).collect();
        let form = match what.chars().next() {
            Some(letter @ ('j' | 't' | 'w')) => format!(": ids of {what}s look like {letter}5-0"),
            Some(_) | None => String::new(),
        };
        Problem::new(
            Code::NotFound,
            format!("there is no {what} \"{shown}\"{form}"),
        )
    })
}

/// Checks a name, key or the like: not empty, bounded, no control characters.
pub fn name(field: &str, text: &str) -> Result<(), Problem> {
    if text.is_empty() {
        return Err(Problem::invalid(field, "must not be empty"));
    }
    bounded_text(field, text)
}

/// Checks a name that occurs in paths: like [`name`], and neither `.` nor `..`. Many clients resolve such a path segment
/// before they send a request, so nothing could be addressed by such a name.
pub fn path_name(field: &str, text: &str) -> Result<(), Problem> {
    name(field, text)?;
    if matches!(text, "." | "..") {
        return Err(Problem::invalid(field, "must not be \".\" or \"..\""));
    }
    Ok(())
}

/// Checks a text like [`name`]. It may be empty.
pub fn bounded_text(field: &str, text: &str) -> Result<(), Problem> {
    if text.len() > NAME_BYTES_MAX {
        return Err(Problem::invalid(
            field,
            format!(
                "is {} bytes long; the limit is {NAME_BYTES_MAX}",
                text.len()
            ),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::invalid(
            field,
            "must not contain control characters",
        ));
    }
    Ok(())
}

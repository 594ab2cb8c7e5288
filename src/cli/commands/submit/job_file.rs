//! Job files, in the format of the HTTP interface.

use std::io::Read;
use std::path::Path;

use triarch_sdk::json_text::read_error;
use triarch_sdk::wire::SubmitJob;

use crate::error::CommandError;

const EXAMPLE: &str = r#"{"tasks": [{"kind": "exec", "payload": {"argv": ["echo", "hi"]}}]}"#;

/// Reads a job from a file, or from stdin for `-`.
pub fn read(path: &Path) -> Result<SubmitJob, CommandError> {
    let (name, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        ("stdin".to_owned(), read.map(|_| bytes))
    } else {
        (path.display().to_string(), std::fs::read(path))
    };
    let bytes = bytes.map_err(|error| {
        CommandError::Usage(format!("cannot read the job from {name}: {error}"))
    })?;
    parse(&bytes).map_err(|why| {
        CommandError::Usage(format!(
            "{name} does not contain a valid job: {why}. A job looks like {EXAMPLE}"
        ))
    })
}

/// Parses a job. A byte order mark, which some editors write, is skipped.
fn parse(bytes: &[u8]) -> Result<SubmitJob, String> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err("it is UTF-16; save it as UTF-8".to_owned());
    }
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match text.trim_ascii_start().first() {
        None => return Err("it is empty".to_owned()),
        Some(b'[') => {
            return Err(
                "it is a list, and a job is an object: write {\"tasks\": […]} around the list of tasks".to_owned(),
            );
        }
        Some(_) => {}
    }
    serde_json::from_slice(text).map_err(|error| read_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let job = parse(format!("\u{feff}{EXAMPLE}").as_bytes()).expect("a job");
        assert_eq!(job.tasks.len(), 1);
    }

    #[test]
    fn what_is_no_job_is_refused_with_what_it_is() {
        for (bytes, said) in [
            (&b"\xFF\xFE{\0}\0"[..], "UTF-16"),
            (b"", "empty"),
            (b" \n", "empty"),
            (b"\xEF\xBB\xBF", "empty"),
            (b"[{\"kind\": \"exec\"}]", "list"),
            (b"\xEF\xBB\xBF []", "list"),
            (b"{\"tasks\": [{\"kind\": \"exec\", \"prio\": 3}]}", "prio"),
            (b"{\"tasks\": [", "EOF"),
            (b"{\"name\": \"\xFF\"}", "line 1"),
        ] {
            let why = parse(bytes).expect_err(said);
            assert!(why.contains(said), "{said}: {why}");
        }
    }
}

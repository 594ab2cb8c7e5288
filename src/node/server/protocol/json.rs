//! Request bodies in JSON: strict, bounded in depth, with errors that name the field.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use triarch_sdk::json_text::read_error;

use super::problem::Problem;
use crate::server::protocol::strict_json::StrictDeserializer;

/// Maximum nesting depth of a JSON body.
pub const JSON_DEPTH_MAX: usize = 64;

/// Parses a JSON body. Unknown fields are refused by name.
pub fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    if is_blank(body) {
        return Err(Problem::invalid(
            "",
            "the body is empty; this route needs a JSON object",
        ));
    }
    parse_within(body, JSON_DEPTH_MAX)
}

/// Parses JSON of this nesting depth at most. Unknown fields are refused by name.
pub fn parse_within<T: DeserializeOwned>(body: &[u8], depth_max: usize) -> Result<T, Problem> {
    check_depth(body, depth_max)?;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    if let Ok(value) = T::deserialize(StrictDeserializer(&mut deserializer))
        && deserializer.end().is_ok()
    {
        return Ok(value);
    }
    // The body is parsed once more to find the error and its path, because tracking the path costs too much for valid
    // bodies.
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let value = T::deserialize(serde_path_to_error::Deserializer::new(
        StrictDeserializer(&mut deserializer),
        &mut track,
    ))
    .map_err(|error| invalid_json(&track.path().to_string(), &error))?;
    deserializer
        .end()
        .map_err(|error| invalid_json("", &error))?;
    Ok(value)
}

/// Returns whether the body is only white space in the sense of JSON, which is narrower than that of Rust.
fn is_blank(body: &[u8]) -> bool {
    body.iter()
        .all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

/// Parses a JSON body like [`parse`]. A blank body gives the default.
pub fn parse_or_default<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, Problem> {
    if is_blank(body) {
        Ok(T::default())
    } else {
        parse(body)
    }
}

/// Accepts the body of a route that takes none: nothing, or an empty object.
pub fn parse_empty(body: &Bytes) -> Result<(), Problem> {
    #[derive(Default, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    parse_or_default::<Nothing>(body).map(|Nothing {}| ())
}

fn invalid_json(path: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let at = if path == "." { "" } else { path };
    // serde names an unknown field only in its message.
    let unknown = text
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split('`').next());
    let field = match unknown {
        Some(name) if at.is_empty() || at == name || at.ends_with(&format!(".{name}")) => {
            if at.is_empty() {
                name.to_string()
            } else {
                at.to_string()
            }
        }
        Some(name) => format!("{at}.{name}"),
        None => at.to_string(),
    };
    Problem::invalid(&field, read_error(error))
}

/// Checks nesting outside of strings. Raw values that are never parsed here are thereby bounded too.
fn check_depth(body: &[u8], depth_max: usize) -> Result<(), Problem> {
    let mut depth = 0_usize;
    let mut rest = body;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => rest = after_string(after),
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return Err(Problem::invalid(
                        "",
                        format!("the JSON is nested deeper than {depth_max}"),
                    )
                    .with("depth_max", depth_max));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Skips to the end of a string whose opening quote was read.
pub(super) fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let ends = rest[at] == b'"';
        // An escaped byte is skipped with its backslash.
        rest = rest
            .get(at + if ends { 1 } else { 2 }..)
            .unwrap_or_default();
        if ends {
            return rest;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code, reason = "only its reading matters")]
        priority: Option<u8>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code, reason = "only its reading matters")]
        tasks: Vec<Inner>,
    }

    fn refused(body: &str) -> String {
        let problem =
            parse::<Outer>(&Bytes::copy_from_slice(body.as_bytes())).expect_err("must be refused");
        format!("{problem:?}")
    }

    #[test]
    fn a_body_of_json_white_space_counts_as_empty() {
        for blank in ["", " ", "\t\r\n "] {
            assert!(parse_empty(&Bytes::from_static(blank.as_bytes())).is_ok());
        }
        for other in ["\x0c", " \x0b", "\0", "\u{a0}"] {
            assert!(parse_empty(&Bytes::from_static(other.as_bytes())).is_err());
        }
    }

    #[test]
    fn an_invalid_body_is_refused_with_the_name_of_the_field() {
        assert!(refused(r#"{"tasks":[{"priority":300}]}"#).contains("tasks[0].priority"));
        assert!(refused(r#"{"tasks":[{"prio":3}]}"#).contains("tasks[0].prio"));
        assert!(refused(r#"{"taks":[]}"#).contains("\"taks\""));
    }

    #[test]
    fn a_list_in_place_of_an_object_is_refused_at_any_depth() {
        assert!(refused("[[]]").contains("a JSON object"));
        assert!(refused(r#"{"tasks":[[3]]}"#).contains("tasks[0]"));
        assert!(refused(r#"{"tasks":[[]]}"#).contains("a JSON object"));
        let null = parse_empty(&Bytes::from_static(b"null"));
        assert!(format!("{null:?}").contains("a JSON object"));
        let read = |body: &str| {
            parse::<triarch_sdk::wire::SubmitJob>(&Bytes::copy_from_slice(body.as_bytes()))
        };
        let fine = r#"{"tasks":[{"kind":"exec","payload":[1,{"a":[2]}],"after":["x"],"requires":{"labels":{"a":"b"}}}]}"#;
        let job = read(fine).expect("as it is meant");
        assert_eq!(
            job.tasks[0].payload.as_ref().map(|text| text.get()),
            Some(r#"[1,{"a":[2]}]"#)
        );
        for field in ["requires", "backoff"] {
            let body = format!(r#"{{"tasks":[{{"kind":"exec","{field}":[]}}]}}"#);
            assert!(
                format!("{:?}", read(&body).err()).contains(field),
                "{field}"
            );
        }
    }

    #[test]
    fn nesting_depth_is_bounded_outside_of_strings_only() {
        let check_depth = |body: &[u8]| super::check_depth(body, JSON_DEPTH_MAX);
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        assert!(check_depth(deep.as_bytes()).is_err());
        assert!(check_depth(format!("\"{}\"", "[".repeat(1000)).as_bytes()).is_ok());
        let deep_after = |before: &str| format!("[\"{before}\", {}", "[".repeat(70));
        assert!(check_depth(deep_after(r#"\""#).as_bytes()).is_err());
        assert!(check_depth(deep_after(r"\\").as_bytes()).is_err());
        let within = format!("[\"a\\\"{}", "[".repeat(1000));
        assert!(check_depth(within.as_bytes()).is_ok(), "{within}");
        assert!(check_depth(b"[\"\\").is_ok(), "cut off behind a backslash");
        assert!(check_depth(br#"["a\"[[[[", 1]"#).is_ok());
    }
}

//! Reading what clients send: bodies, ids and query strings, with errors that name the field.

use std::str::FromStr;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::problem::{Code, Failure, Problem};
use crate::server::App;
use crate::server::protocol::strict_json::Strict;

/// Deepest nesting of JSON that is read.
const JSON_DEPTH_MAX: usize = 64;
/// Longest id, name or key, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// Reads a JSON body of a known shape. Unknown fields are refused by name.
pub fn json<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    if is_blank(body) {
        return Err(Problem::invalid(
            "",
            "the body is empty; this route takes a JSON object",
        ));
    }
    check_depth(body)?;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    if let Ok(value) = T::deserialize(Strict(&mut deserializer))
        && deserializer.end().is_ok()
    {
        return Ok(value);
    }
    // Read once more to say what is wrong with it, and where: keeping track of that is too dear for what is well.
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let value = T::deserialize(serde_path_to_error::Deserializer::new(
        Strict(&mut deserializer),
        &mut track,
    ))
    .map_err(|error| explain(&track.path().to_string(), &error))?;
    deserializer.end().map_err(|error| explain("", &error))?;
    Ok(value)
}

/// Whether there is nothing but what JSON takes for space: fewer bytes than Rust does.
fn is_blank(body: &[u8]) -> bool {
    body.iter()
        .all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

/// As [`json`], where no body at all means the default.
pub fn json_or_default<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, Problem> {
    if is_blank(body) {
        Ok(T::default())
    } else {
        json(body)
    }
}

/// A route that takes no body: nothing, or an empty object.
fn no_body(body: &Bytes) -> Result<(), Problem> {
    #[derive(Default, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    json_or_default::<Nothing>(body).map(|Nothing {}| ())
}

fn explain(path: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let at = if path == "." { "" } else { path };
    // serde names an unknown field only in its words.
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
    Problem::invalid(&field, text)
}

/// Counts nesting outside of strings, so that raw values that are never parsed here are bounded too.
fn check_depth(body: &[u8]) -> Result<(), Problem> {
    let mut depth = 0_usize;
    let mut rest = body;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => rest = after_string(after),
            b'{' | b'[' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(Problem::invalid(
                        "",
                        format!("the JSON is nested deeper than {JSON_DEPTH_MAX}"),
                    )
                    .with("depth_max", JSON_DEPTH_MAX));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// What follows a string, of which only the first quote was read.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let ends = rest[at] == b'"';
        // What is escaped is skipped with its backslash.
        rest = rest
            .get(at + if ends { 1 } else { 2 }..)
            .unwrap_or_default();
        if ends {
            return rest;
        }
    }
    &[]
}

/// Reads an id from a path. A text that cannot be an id names nothing: not found.
pub fn id<T: FromStr>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(NAME_BYTES_MAX).collect();
        Problem::new(Code::NotFound, format!("there is no {what} \"{shown}\""))
    })
}

/// Checks a name, key or the like: not empty, bounded, no control characters.
pub fn name(field: &str, text: &str) -> Result<(), Problem> {
    if text.is_empty() {
        return Err(Problem::invalid(field, "must not be empty"));
    }
    bounded_text(field, text)
}

/// As [`name`], but may be empty.
pub fn bounded_text(field: &str, text: &str) -> Result<(), Problem> {
    if text.len() > NAME_BYTES_MAX {
        return Err(Problem::invalid(
            field,
            format!(
                "is {} bytes long, the bound is {NAME_BYTES_MAX}",
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

/// A request without query parameters of its own; those that every read takes are left to [`crate::server::protocol::response::ReadIndex`].
pub struct NoQuery;

impl FromRequestParts<App> for NoQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, Failure> {
        Query::read(parts.uri.query(), &[])?;
        Ok(Self)
    }
}

/// A request that says all by its path: no query, and no body or an empty object.
pub struct Bare;

impl FromRequest<App> for Bare {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        Query::read(request.uri().query(), &[])?;
        let body = Bytes::from_request(request, app).await;
        no_body(&body.map_err(|error| Problem::invalid("", error.body_text()))?)?;
        Ok(Self)
    }
}

/// A query string, read by name. Unknown and repeated names are refused.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query, allowing `allowed` and the names every read takes.
    pub fn read(raw: Option<&str>, allowed: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(raw.unwrap_or_default().as_bytes()) {
            if name != "consistency" && !allowed.contains(&name.as_ref()) {
                let known = if allowed.is_empty() {
                    "none".to_string()
                } else {
                    allowed.join(", ")
                };
                return Err(Problem::invalid(
                    &name,
                    format!("unknown query parameter; this route knows: {known}"),
                ));
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::invalid(&name, "is given twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// Reads any query, judging nothing.
    pub fn read_any(raw: Option<&str>) -> Option<Self> {
        raw.map(|raw| {
            Self(
                url::form_urlencoded::parse(raw.as_bytes())
                    .into_owned()
                    .collect(),
            )
        })
    }

    /// The text of `name`, if given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of `name`, if given.
    pub fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Problem> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Problem::invalid(name, format!("must be {expected}")))
            })
            .transpose()
    }

    /// `limit`, bounded.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.parsed::<usize>("limit", "a number from 1 to 1000")? {
            None => Ok(100),
            Some(limit) if (1..=1_000).contains(&limit) => Ok(limit),
            Some(_) => Err(Problem::invalid("limit", "must be a number from 1 to 1000")),
        }
    }
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
            json::<Outer>(&Bytes::copy_from_slice(body.as_bytes())).expect_err("must be refused");
        format!("{problem:?}")
    }

    #[test]
    fn only_what_json_takes_for_space_is_no_body() {
        for blank in ["", " ", "\t\r\n "] {
            assert!(no_body(&Bytes::from_static(blank.as_bytes())).is_ok());
        }
        for other in ["\x0c", " \x0b", "\0", "\u{a0}"] {
            assert!(no_body(&Bytes::from_static(other.as_bytes())).is_err());
        }
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        assert!(refused(r#"{"tasks":[{"priority":300}]}"#).contains("tasks[0].priority"));
        assert!(refused(r#"{"tasks":[{"prio":3}]}"#).contains("tasks[0].prio"));
        assert!(refused(r#"{"taks":[]}"#).contains("\"taks\""));
    }

    #[test]
    fn a_list_is_no_object_however_deep() {
        assert!(refused("[[]]").contains("a JSON object"));
        assert!(refused(r#"{"tasks":[[3]]}"#).contains("tasks[0]"));
        assert!(refused(r#"{"tasks":[[]]}"#).contains("a JSON object"));
        let null = no_body(&Bytes::from_static(b"null"));
        assert!(format!("{null:?}").contains("a JSON object"));
        let read = |body: &str| {
            json::<triarch_sdk::wire::SubmitJob>(&Bytes::copy_from_slice(body.as_bytes()))
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
    fn bounds_the_depth_outside_of_strings_only() {
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

    #[test]
    fn a_query_refuses_unknown_and_repeated_names() {
        assert!(Query::read(Some("wait_ms=5"), &["wait_ms"]).is_ok());
        assert!(Query::read(Some("wiat_ms=5"), &["wait_ms"]).is_err());
        assert!(Query::read(Some("wait_ms=5&wait_ms=6"), &["wait_ms"]).is_err());
    }
}

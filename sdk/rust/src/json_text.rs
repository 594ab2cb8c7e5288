//! Texts of users: bounded in bytes, and readable whatever their JSON holds.
//!
//! JSON may escape half of a surrogate pair (`"\ud800"`). Several languages write that, for example for file names that
//! are not UTF-8, and no Unicode text can contain it.

use std::borrow::Cow;

/// The replacement character, escaped.
const REPLACEMENT: &str = "\\ufffd";
/// Length of an escape such as `\ud800`.
const ESCAPE_BYTES: usize = 6;

/// Returns the JSON text with every escaped surrogate that has no other half replaced by U+FFFD.
///
/// ```
/// use triarch_sdk::json_text::without_lone_surrogates;
///
/// assert_eq!(without_lone_surrogates(r#""a\ud800b""#), r#""a\ufffdb""#);
/// assert_eq!(without_lone_surrogates(r#""\ud83d\ude00""#), r#""\ud83d\ude00""#);
/// ```
pub fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    let mut repaired: Option<String> = None;
    // Text up to here is in `repaired`, if there is one.
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = json.as_bytes()[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        at += match surrogate(json, at) {
            Some(Surrogate::High) if surrogate(json, at + ESCAPE_BYTES) == Some(Surrogate::Low) => {
                2 * ESCAPE_BYTES
            }
            Some(Surrogate::High | Surrogate::Low) => {
                let text = repaired.get_or_insert_default();
                text.push_str(&json[copied..at]);
                text.push_str(REPLACEMENT);
                copied = at + ESCAPE_BYTES;
                ESCAPE_BYTES
            }
            // The escaped character is skipped too: it may be a backslash.
            None => 2,
        };
        if at >= json.len() {
            break;
        }
    }
    match repaired {
        Some(mut text) => {
            text.push_str(&json[copied..]);
            Cow::Owned(text)
        }
        None => Cow::Borrowed(json),
    }
}

/// Returns the message of an error of reading JSON. It names a lone surrogate, which serde_json calls a hex escape without
/// its end.
pub fn read_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let lone = [
        "unexpected end of hex escape",
        "lone leading surrogate in hex escape",
    ];
    match lone.iter().find_map(|lone| text.strip_prefix(lone)) {
        Some(place) => format!(
            "a text has half of a surrogate pair, such as \\ud800, without its other half{place}: it is no character, and \
             no text can hold it. Write \\ufffd instead, or encode bytes as Base64"
        ),
        None => text,
    }
}

/// Returns the beginning of a text, at most this long, cut between characters.
///
/// ```
/// assert_eq!(triarch_sdk::json_text::beginning("ab€", 4), "ab");
/// ```
pub fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[derive(Debug, PartialEq, Eq)]
enum Surrogate {
    High,
    Low,
}

/// Returns the surrogate whose escape is at this position.
fn surrogate(json: &str, at: usize) -> Option<Surrogate> {
    let escape = json.as_bytes().get(at..at + ESCAPE_BYTES)?;
    let digits = std::str::from_utf8(escape.strip_prefix(b"\\u")?).ok()?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xD800..=0xDBFF => Some(Surrogate::High),
        0xDC00..=0xDFFF => Some(Surrogate::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_reading_names_a_lone_surrogate() {
        for json in [
            r#""\ud800""#,
            r#""\ud800x""#,
            r#""\ud800\n""#,
            r#""\ud800\u0041""#,
            r#""\udc00""#,
        ] {
            let error = serde_json::from_str::<String>(json).expect_err("no text");
            let said = read_error(&error);
            assert!(said.contains("half of a surrogate pair"), "{json}: {said}");
            assert!(said.contains("at line 1 column"), "{json}: {said}");
        }
        let other = serde_json::from_str::<String>("7").expect_err("no text");
        assert_eq!(read_error(&other), other.to_string());
    }

    #[test]
    fn only_surrogates_without_their_other_half_are_replaced() {
        for (given, expected) in [
            (r#""plain""#, r#""plain""#),
            (r#""\ud800""#, r#""\ufffd""#),
            (r#""\uDFFF\ud800""#, r#""\ufffd\ufffd""#),
            (r#""\ud800\ud83d\ude00x""#, r#""\ufffd\ud83d\ude00x""#),
            (r#""\\ud800""#, r#""\\ud800""#),
            (r#""\\\udc00é\n""#, r#""\\\ufffdé\n""#),
            (r#"{"\ud801":["\ud801"]}"#, r#"{"\ufffd":["\ufffd"]}"#),
            (r#""\u+800""#, r#""\u+800""#),
            (r#""\ud8"#, r#""\ud8"#),
            ("\"\\", "\"\\"),
            ("\\é\\ud800", "\\é\\ufffd"),
        ] {
            assert_eq!(without_lone_surrogates(given), expected, "{given}");
        }
    }
}

//! Splitter of JSON text into the raw texts of its parts, which need not be valid JSON themselves.
//!
//! Only quotes and brackets count. A request whose strict parsing fails is split here, so that each part can be judged
//! alone: one that is wrong does not cost the others.

use crate::server::protocol::json::after_string;

/// Returns the names and raw texts of an object's members; `None` if the text is not an object of any kind.
pub fn members(text: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let mut found = Vec::new();
    let mut rest = trimmed(text).strip_prefix(b"{")?;
    if let Some(after) = trimmed(rest).strip_prefix(b"}") {
        return trimmed(after).is_empty().then_some(found);
    }
    loop {
        let name = trimmed(rest);
        let after_name = after_string(name.strip_prefix(b"\"")?);
        let quoted = &name[..name.len() - after_name.len()];
        let name = serde_json::from_slice(quoted)
            .unwrap_or_else(|_| String::from_utf8_lossy(quoted).into_owned());
        let (value, end, after) = value(trimmed(after_name).strip_prefix(b":")?)?;
        found.push((name, value));
        match end {
            b',' => rest = after,
            b'}' if trimmed(after).is_empty() => return Some(found),
            _ => return None,
        }
    }
}

/// Returns the raw texts of a list's items; `None` if the text is not a list of any kind.
pub fn items(text: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    let mut rest = trimmed(text).strip_prefix(b"[")?;
    if let Some(after) = trimmed(rest).strip_prefix(b"]") {
        return trimmed(after).is_empty().then_some(found);
    }
    loop {
        let (value, end, after) = value(rest)?;
        found.push(value);
        match end {
            b',' => rest = after,
            b']' if trimmed(after).is_empty() => return Some(found),
            _ => return None,
        }
    }
}

/// Returns the value at the beginning of the text, the byte that ends it, and the text after that byte.
fn value(text: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'"' => {
                rest = after_string(after);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b',' | b'}' | b']' if depth == 0 => {
                let value = trimmed(&text[..text.len() - rest.len()]);
                return (!value.is_empty()).then_some((value, byte, after));
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        rest = after;
    }
    None
}

fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Option<Vec<(String, String)>> {
        let parts = members(text.as_bytes())?.into_iter();
        let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
        Some(parts.map(|(name, raw)| (name, text(raw))).collect())
    }

    #[test]
    fn an_object_is_split_into_its_members_whatever_they_are() {
        let found = names(r#" { "a" : NaN , "b":[1,{"c":"}]\""}], "\u0063": "x,y" ,"d":{} } "#);
        let expected = [
            ("a", "NaN"),
            ("b", r#"[1,{"c":"}]\""}]"#),
            ("c", r#""x,y""#),
            ("d", "{}"),
        ];
        let expected = expected.map(|(name, raw)| (name.to_owned(), raw.to_owned()));
        assert_eq!(found, Some(expected.to_vec()));
        assert_eq!(names("{}"), Some(Vec::new()));
    }

    #[test]
    fn a_list_is_split_into_its_items_whatever_they_are() {
        let found = items(b"[1, {\"a\": \"\xff\"},\n[[\"]\"]], \"\\ud800\"]").expect("a list");
        let expected: [&[u8]; 4] = [b"1", b"{\"a\": \"\xff\"}", b"[[\"]\"]]", b"\"\\ud800\""];
        assert_eq!(found, expected);
        assert_eq!(items(b" [ ] "), Some(Vec::new()));
    }

    #[test]
    fn text_without_its_brackets_has_no_parts() {
        for text in [
            "",
            "{",
            "}",
            "[]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":1}}",
            "{\"a\":1,}",
            "{\"a\":[1}",
            "{a:1}",
            "{\"a\":\"1}",
            "{\"a\":1]",
            "null",
        ] {
            assert_eq!(members(text.as_bytes()), None, "{text}");
        }
        for text in ["", "[", "[1", "[1,]", "[,]", "{}", "[1}", "[1]]", "[\"]"] {
            assert_eq!(items(text.as_bytes()), None, "{text}");
        }
    }
}

//! Short forms of payloads and results, by which a history compares them.

use serde_json::Value;

/// Maximum length of a text that is kept whole. Longer texts are represented by their length and a checksum.
const MAX_VERBATIM_BYTES: usize = 48;

/// Returns the value as JSON if it is short, else its length and a 64-bit FNV-1a checksum. Equal values have equal
/// digests, in any order of their fields.
pub fn digest(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= MAX_VERBATIM_BYTES {
        return text;
    }
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{}:{sum:016x}", text.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn short_values_are_shown_and_long_ones_are_digested() {
        assert_eq!(digest(&json!({"a": 1})), r#"{"a":1}"#);
        let long = |end: u32| json!(["x".repeat(100), end]);
        assert_ne!(digest(&long(1)), digest(&long(2)));
        assert_eq!(digest(&long(1)), digest(&long(1)));
        assert!(digest(&long(1)).len() <= MAX_VERBATIM_BYTES);
    }
}

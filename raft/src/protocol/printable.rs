//! Text from other nodes, made safe for logs and answers: one line, bounded, without characters that act on a terminal.

/// Maximum length of a text, in characters.
const CHARS_MAX: usize = 500;

/// Returns the text on one line, with control characters and characters that reorder text escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(CHARS_MAX));
    for (position, c) in text.chars().enumerate() {
        if position == CHARS_MAX {
            out.push('…');
            break;
        }
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_peer_is_one_bounded_line() {
        assert_eq!(printable("it is node 3, not ä"), "it is node 3, not ä");
        assert_eq!(
            printable("x\r\nERROR forged\x1b[2J\u{202e}"),
            "x\\r\\nERROR forged\\u{1b}[2J\\u{202e}"
        );
        assert_eq!(printable(&"x".repeat(9_000)).chars().count(), CHARS_MAX + 1);
    }
}

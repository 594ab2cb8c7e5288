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

/// Returns whether a character acts on a terminal, reorders the text around it, or takes no place.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || (!c.is_ascii()
            && matches!(c,
                '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'))
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

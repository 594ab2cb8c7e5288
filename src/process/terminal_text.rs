//! Text for terminals: characters that act on a terminal, or that are not seen on one, are written as escapes.
//!
//! Names, notes and errors come from users. A control character in one of them moves the cursor, clears the screen or sets
//! the title of the reader's window. A bidirectional or zero-width character makes a text look like another one. Both are
//! shown as `\u{1b}` and the like.
//!
//! # Invariants
//!
//! - Escaped text holds no control character but those that its [`Keep`] names.

use std::borrow::Cow;

use triarch_raft::is_unsafe_on_terminal;

/// Control characters that stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// None: the text stays one line.
    Nothing,
    /// Styles (`ESC [ … m`), as this program's own log and tables have on a terminal.
    Styles,
    /// Newlines.
    Lines,
    /// Newlines and styles.
    StyledLines,
    /// Newlines, styles, tabs and carriage returns: the output of a task, as its program formatted it.
    TaskOutput,
}

impl Keep {
    fn keeps(self, c: char) -> bool {
        match self {
            Keep::Nothing | Keep::Styles => false,
            Keep::Lines | Keep::StyledLines => c == '\n',
            Keep::TaskOutput => matches!(c, '\n' | '\t' | '\r'),
        }
    }

    fn keeps_styles(self) -> bool {
        match self {
            Keep::Nothing | Keep::Lines => false,
            Keep::Styles | Keep::StyledLines | Keep::TaskOutput => true,
        }
    }
}

/// Returns the text with its unsafe characters escaped, but for those to keep.
pub fn escape(text: &str, keep: Keep) -> Cow<'_, str> {
    let unsafe_at = |text: &str| text.find(|c| !keep.keeps(c) && is_unsafe_on_terminal(c));
    let Some(first) = unsafe_at(text) else {
        return Cow::Borrowed(text);
    };
    let mut escaped = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut next = Some(first);
    while let Some(at) = next {
        escaped.push_str(&rest[..at]);
        rest = &rest[at..];
        let style = style_len(rest).filter(|_| keep.keeps_styles());
        if let Some(len) = style {
            escaped.push_str(&rest[..len]);
            rest = &rest[len..];
        } else {
            let mut chars = rest.chars();
            if let Some(c) = chars.next() {
                // `\n` and the like for the usual ones, else `\u{…}`.
                escaped.extend(c.escape_default());
            }
            rest = chars.as_str();
        }
        next = unsafe_at(rest);
    }
    escaped.push_str(rest);
    Cow::Owned(escaped)
}

/// Returns the length of the style (`ESC [ digits and semicolons m`) that the text begins with.
fn style_len(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_act_on_a_terminal_or_are_not_seen_are_escaped() {
        for (given, escaped) in [
            ("plain ä 中 🙂", "plain ä 中 🙂"),
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("a\rb\tc\x7f\u{9b}31m", "a\\rb\\tc\\u{7f}\\u{9b}31m"),
            (
                "\u{202e}evil\u{200b}\u{feff}",
                "\\u{202e}evil\\u{200b}\\u{feff}",
            ),
            ("one\ntwo", "one\\ntwo"),
            ("\x1b[31mred", "\\u{1b}[31mred"),
        ] {
            assert_eq!(escape(given, Keep::Nothing), escaped, "{given:?}");
        }
    }

    #[test]
    fn what_is_kept_stays_as_it_is_and_nothing_else() {
        let text = "\x1b[1;31mred\x1b[0m\x1b[2J\n\ttab\r\x1b";
        let kept = |keep| escape(text, keep).into_owned();
        assert_eq!(
            kept(Keep::Lines),
            "\\u{1b}[1;31mred\\u{1b}[0m\\u{1b}[2J\n\\ttab\\r\\u{1b}"
        );
        assert_eq!(
            kept(Keep::Styles),
            "\x1b[1;31mred\x1b[0m\\u{1b}[2J\\n\\ttab\\r\\u{1b}"
        );
        assert_eq!(
            kept(Keep::StyledLines),
            "\x1b[1;31mred\x1b[0m\\u{1b}[2J\n\\ttab\\r\\u{1b}"
        );
        assert_eq!(
            kept(Keep::TaskOutput),
            "\x1b[1;31mred\x1b[0m\\u{1b}[2J\n\ttab\r\\u{1b}"
        );
    }

    #[test]
    fn safe_text_is_not_copied() {
        assert!(matches!(escape("j1-0 ok", Keep::Nothing), Cow::Borrowed(_)));
    }
}

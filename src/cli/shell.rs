//! Command lines as a POSIX shell parses them, for hints that users paste.

/// Returns the name by which the user called this program, so that printed commands can be pasted into the same shell.
pub fn program_name() -> String {
    std::env::args()
        .next()
        .map_or_else(|| "triarch".to_owned(), |name| quote(&name))
}

/// Quotes a word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_quoted_word_survives_a_shell() {
        assert_eq!(quote("1=127.0.0.1:7101"), "1=127.0.0.1:7101");
        assert_eq!(quote("/my dir/it's"), r"'/my dir/it'\''s'");
        assert_eq!(quote(""), "''");
    }
}

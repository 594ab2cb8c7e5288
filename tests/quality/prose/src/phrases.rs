//! Phrases that prose avoids, because a reader has to guess their meaning.

use crate::TextFile;

/// Each phrase, and what to write instead. A `.` stands for any punctuation: "number of late tasks" is an ordinary use.
const AVOIDED: [(&str, &str); 9] = [
    (
        "told",
        "configured, notified, reported; for a default: Default: N",
    ),
    ("came of", "the result, the outcome"),
    ("by hand", "manually"),
    ("meanwhile", "while …, during …"),
    ("for people", "for users, human-readable"),
    ("of late .", "recently, in the last …"),
    ("so many", "this number of, N"),
    ("anew", "again"),
    ("beside", "next to, in addition to, with"),
];

/// Starts of lines that are no part of a sentence: comment markers.
const COMMENT_MARKERS: [&str; 5] = ["///", "//!", "//", "#:", "#"];

/// Returns one line for each avoided phrase in `file`.
///
/// A phrase is found across a line break too, also inside a comment or a continued string. Words joined by `_` count as one
/// word, so names in code are not searched.
pub fn avoided_phrases(file: &TextFile) -> Vec<String> {
    let words = words(&file.text);
    let mut found = Vec::new();
    for (phrase, instead) in AVOIDED {
        let wanted: Vec<&str> = phrase.split(' ').collect();
        for window in words.windows(wanted.len()) {
            if window
                .iter()
                .zip(&wanted)
                .all(|(word, wanted)| word.text == wanted.trim_matches('.'))
            {
                found.push(format!(
                    "{}:{}: \"{phrase}\"; instead: {instead}",
                    file.path.display(),
                    window[0].line
                ));
            }
        }
    }
    found
}

/// Returns a word in lower case, or an empty text where a sentence or clause ends.
struct Word {
    text: String,
    line: usize,
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut line = line.trim();
        for marker in COMMENT_MARKERS {
            if let Some(rest) = line.strip_prefix(marker) {
                line = rest;
                break;
            }
        }
        // Escapes in string literals, and the mark of a string that continues on the next line.
        let line = line.replace("\\n", " ").replace('\\', " ");
        let mut word = String::new();
        for c in line.chars().chain([' ']) {
            if c.is_alphanumeric() || c == '_' || c == '\'' {
                word.extend(c.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                words.push(Word {
                    text: std::mem::take(&mut word),
                    line: index + 1,
                });
            }
            if !c.is_whitespace() && c != '*' {
                words.push(Word {
                    text: String::new(),
                    line: index + 1,
                });
            }
        }
    }
    words
}

//! Test that the table is deterministic: it must give the same result on every replica, so its code may depend only on
//! its input.

use std::fs;
use std::path::Path;

/// Words that must not occur in the table's code, with the reasons.
const FORBIDDEN: [(&str, &str); 18] = [
    ("HashMap", "its order differs between processes"),
    ("HashSet", "its order differs between processes"),
    ("RandomState", "it is random"),
    ("SystemTime", "time comes in with the entry"),
    ("Instant", "time comes in with the entry"),
    ("chrono", "time comes in with the entry"),
    ("rand", "nothing is rolled"),
    ("uuid", "ids are derived"),
    ("f32", "floats differ between machines"),
    ("f64", "floats differ between machines"),
    ("usize::MAX", "it differs between machines"),
    ("async", "applying does not wait"),
    ("tokio", "applying does not wait"),
    ("thread", "applying is one thing after another"),
    ("env::", "a replica's surroundings are its own"),
    ("fs::", "a replica's files are its own"),
    ("println!", "applying tells by replies and events"),
    ("unsafe", "there is no need"),
];

#[test]
fn the_table_is_pure() {
    let mut files = 0;
    check_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    assert!(files > 20, "only {files} files");
}

fn check_folder(folder: &Path, files: &mut usize) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            check_folder(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            *files += 1;
            let code = fs::read_to_string(&path).expect("readable");
            for (number, line) in code.lines().enumerate() {
                let line = line.split("//").next().unwrap_or("");
                if let Some((word, why)) = FORBIDDEN.iter().find(|(word, _)| says(line, word)) {
                    panic!("{}:{}: {word}: {why}\n{line}", path.display(), number + 1);
                }
            }
        }
    }
}

/// Returns whether the line contains the word as a whole word.
fn says(line: &str, word: &str) -> bool {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !part_of_word(before) && (!part_of_word(after) || word.ends_with([':', '!']))
    })
}

#[test]
fn words_are_found_as_words() {
    assert!(says("let map: HashMap<u8, u8>", "HashMap"));
    assert!(says("std::env::var", "env::"));
    assert!(!says("operand", "rand") && !says("randy", "rand"));
    assert!(!says("unsafe_code", "unsafe"));
}

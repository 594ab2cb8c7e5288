//! Names that single folders must not use: clocks and chance in the table, HTTP in the leader, the terminal in most of the
//! command line.

use std::path::PathBuf;

use crate::checkout::{assert_none, root, shown, sources};
use crate::source;

/// Words that must not occur in the table, because replicas would differ.
const IMPURE: [&str; 10] = [
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "tokio",
    "rand::",
];

/// Words that must not occur in `src/node/leader`: the leader decides, and other modules speak HTTP.
const NO_HTTP_IN_LEADER: [&str; 9] = [
    "axum",
    "http",
    "http_body_util",
    "hyper",
    "hyper_util",
    "reqwest",
    "tower",
    "utoipa",
    "wire",
];

#[test]
fn the_table_is_pure() {
    let mut files = Vec::new();
    sources(&root().join("table/src"), &["rs"], &mut files);
    assert!(files.len() > 5, "the table's sources were not found");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        for (number, line) in text.lines().enumerate() {
            // Tests at the end of a file are exempt.
            if line.trim() == "#[cfg(test)]" {
                break;
            }
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE {
                assert!(
                    !code.contains(word),
                    "{}:{}: the table must not use {word}: replicas would differ",
                    file.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn the_leader_knows_no_http() {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    sources(&root().join("src/node/leader"), &["rs"], &mut files);
    assert!(files.len() > 3, "the leader's sources were not found");
    for file in files {
        let module = source::read(&std::fs::read_to_string(&file).expect("a source"));
        let imported = module.imports.iter().map(|import| &import.path);
        for path in imported.chain(&module.paths) {
            for word in NO_HTTP_IN_LEADER {
                if path.segments.iter().take(2).any(|segment| segment == word) {
                    findings.push(format!(
                        "{}:{} names {}",
                        shown(&file),
                        path.line,
                        path.segments.join("::")
                    ));
                }
            }
        }
    }
    assert_none("HTTP in the leader", &findings);
}

/// The only files of the command line that write to the terminal. They escape the texts of users; `dispatch.rs` prints a
/// script of this program.
const MAY_PRINT: [&str; 2] = ["src/cli/output.rs", "src/dispatch.rs"];
/// Ways to write to the terminal.
const PRINTING: [&str; 5] = [
    "comfy_table",
    "println!",
    "print!(",
    "stdout().lock()",
    "stderr().lock()",
];

#[test]
fn one_file_of_the_command_line_writes_to_the_terminal() {
    let mut files = Vec::new();
    sources(&root().join("src"), &["rs"], &mut files);
    let is_of_the_command_line = |file: &PathBuf| {
        let file = shown(file);
        file.starts_with("src/cli/") || file.matches('/').count() == 1
    };
    files.retain(is_of_the_command_line);
    files.retain(|file| !MAY_PRINT.contains(&shown(file).as_str()));
    assert!(
        files.len() > 20,
        "the command line's sources were not found"
    );
    let mut findings = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        for (number, line) in text.lines().enumerate() {
            let printing = PRINTING.iter().find(|word| line.contains(**word));
            if let Some(word) = printing {
                findings.push(format!("{}:{} names {word}", shown(&file), number + 1));
            }
        }
    }
    assert_none("printing past the escapes of src/cli/output.rs", &findings);
}

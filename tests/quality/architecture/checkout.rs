//! The checkout under test, and the files in it.

use std::path::{Path, PathBuf};

/// The crates of the product: the folder of their sources and their name in `use`.
pub const CRATES: [(&str, &str); 10] = [
    ("table/src", "triarch_table"),
    ("storage/src", "triarch_storage"),
    ("raft/src", "triarch_raft"),
    ("sdk/rust/src", "triarch_sdk"),
    ("src/process", "triarch_process"),
    ("src/areas", "triarch_areas"),
    ("src/node", "triarch_node"),
    ("src/worker", "triarch_worker"),
    ("src/cli", "triarch_cli"),
    ("src", "triarch"),
];

/// Returns the root of the checkout under test.
pub fn root() -> PathBuf {
    match std::env::var_os("TRIARCH_ARCHITECTURE_ROOT") {
        Some(root) => PathBuf::from(root),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    }
}

/// Panics with all findings, one per line, if there are any.
pub fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

/// Returns all files below a folder with one of these endings, in order.
pub fn sources(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, endings, found);
            }
        } else if endings
            .iter()
            .any(|ending| path.extension().is_some_and(|it| it == *ending))
        {
            found.push(path);
        }
    }
}

/// Returns a path relative to the root of the repository.
pub fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

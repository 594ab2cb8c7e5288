//! Sizes of folders and files.

use std::collections::BTreeMap;

use crate::checkout::{assert_none, root, shown, sources};

/// Maximum number of source files in one folder.
const MAX_FILES_IN_FOLDER: usize = 20;

/// Maximum number of lines in one source file.
const MAX_LINES_OF_FILE: usize = 600;

/// Folders that may hold more files: one per command of the table, and the scripts that users run by name.
const LARGE_FOLDERS: [&str; 3] = ["table/src/apply", "scripts", "scripts/chaos"];

/// Endings of the names of source files.
const SOURCE_ENDINGS: [&str; 5] = ["rs", "py", "sh", "c", "h"];

#[test]
fn no_folder_holds_more_than_20_source_files() {
    let mut files = Vec::new();
    sources(&root(), &SOURCE_ENDINGS, &mut files);
    assert!(files.len() > 500, "the sources were not found");
    let mut counts = BTreeMap::new();
    for folder in files.iter().filter_map(|file| file.parent()) {
        *counts.entry(shown(folder)).or_insert(0_usize) += 1;
    }
    let findings: Vec<String> = counts
        .iter()
        .filter(|(folder, count)| {
            **count > MAX_FILES_IN_FOLDER && !LARGE_FOLDERS.contains(&folder.as_str())
        })
        .map(|(folder, count)| format!("{folder}: {count} files, at most {MAX_FILES_IN_FOLDER}"))
        .collect();
    assert_none("large folders; group the files by purpose", &findings);
}

#[test]
fn no_source_file_has_more_than_600_lines() {
    let mut files = Vec::new();
    sources(&root(), &SOURCE_ENDINGS, &mut files);
    assert!(files.len() > 500, "the sources were not found");
    let findings: Vec<String> = files
        .iter()
        .filter_map(|file| {
            let lines = std::fs::read_to_string(file)
                .expect("a source")
                .lines()
                .count();
            (lines > MAX_LINES_OF_FILE).then(|| {
                format!(
                    "{}: {lines} lines, at most {MAX_LINES_OF_FILE}",
                    shown(file)
                )
            })
        })
        .collect();
    assert_none("long files; split them by idea", &findings);
}

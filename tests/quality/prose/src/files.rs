//! The text files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold what tools generate or download.
const SKIPPED_FOLDERS: [&str; 6] = [
    "target",
    "dist",
    "node_modules",
    "__pycache__",
    "artifacts",
    "venv",
];

/// Kinds of files that contain prose: documentation, comments, help texts, messages.
const PROSE_EXTENSIONS: [&str; 9] = [
    "rs", "py", "md", "sh", "toml", "yml", "service", "env", "html",
];

/// Files without an extension that contain prose.
const PROSE_NAMES: [&str; 2] = ["justfile", "Dockerfile"];

/// The folder of tests. It includes this crate, which has to spell out the avoided phrases.
const TESTS: &str = "tests";

/// One text file.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// Its path, relative to the root of the repository.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

/// Returns the root of the repository that this crate lies in.
pub fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Returns all Markdown pages under `root`.
pub fn markdown_pages(root: &Path) -> Vec<TextFile> {
    read_files(root, |path| has_extension(path, &["md"]))
}

/// Returns all files under `root` that contain prose for users and readers of the code, except tests.
pub fn texts_with_prose(root: &Path) -> Vec<TextFile> {
    read_files(root, |path| {
        !path.components().any(|part| part.as_os_str() == TESTS)
            && (has_extension(path, &PROSE_EXTENSIONS)
                || path
                    .file_name()
                    .is_some_and(|name| PROSE_NAMES.iter().any(|known| name == *known)))
    })
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension()
        .is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

fn read_files(root: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<TextFile> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.expect("an entry of a folder");
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let kind = entry.file_type().expect("the type of a file");
            let path = entry.path();
            if kind.is_dir() {
                let hidden = name.starts_with('.') && name != ".github";
                if !hidden && !SKIPPED_FOLDERS.contains(&name.as_ref()) {
                    folders.push(path);
                }
            } else if kind.is_file() {
                let relative = path
                    .strip_prefix(root)
                    .expect("a path under the root")
                    .to_path_buf();
                if wanted(&relative) {
                    let text = fs::read_to_string(&path)
                        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
                    files.push(TextFile {
                        path: relative,
                        text,
                    });
                }
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

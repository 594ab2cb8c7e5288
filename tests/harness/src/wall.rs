//! Wall clocks that lie, one for each master.
//!
//! A master that is started with one reads its wall clock through libfaketime (Debian package `faketime`), which adds what
//! stands in a file and looks at the file again every second. Its monotonic clock is left alone, as a wall clock that is
//! set leaves it alone.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian and its kin put the library, by architecture.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The wall clocks of a cluster's masters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Walls {
    library: PathBuf,
    dir: PathBuf,
}

impl Walls {
    /// Clocks that are kept in files in `dir`, all right at first; `None` if the library is not installed.
    pub fn within(dir: &Path) -> Option<Self> {
        let roots = std::fs::read_dir(LIBRARIES).ok()?;
        let places = roots.flatten().map(|entry| entry.path().join(LIBRARY));
        let library = places
            .chain([Path::new(LIBRARIES).join(LIBRARY)])
            .find(|path| path.is_file())?;
        Some(Self {
            library,
            dir: dir.to_path_buf(),
        })
    }

    /// Sets a master's wall clock ahead of the right time by so much, or behind it.
    pub fn set(&self, node: u64, ahead_s: i64) {
        let file = self.file(node);
        let next = file.with_extension("next");
        std::fs::write(&next, format!("{ahead_s:+}\n")).expect("the directory is writable");
        std::fs::rename(next, file).expect("the directory is writable");
    }

    /// Has this master go by its own clock.
    pub(crate) fn apply(&self, command: &mut Command, node: u64) {
        if !self.file(node).is_file() {
            self.set(node, 0);
        }
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.file(node))
            .env("FAKETIME_CACHE_DURATION", "1")
            // The same under its newer and its older name.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
    }

    fn file(&self, node: u64) -> PathBuf {
        self.dir.join(format!("clock-{node}"))
    }
}

//! Fake wall clocks, one for each master.
//!
//! A master with a fake clock reads its wall clock through libfaketime (Debian package `faketime`). libfaketime adds
//! the offset in a file, and reads the file again every second. The monotonic clock is unchanged, as it is when an
//! administrator sets a wall clock.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories of the library on Debian and similar systems, by architecture.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The wall clocks of a cluster's masters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FakeClocks {
    library: PathBuf,
    dir: PathBuf,
}

impl FakeClocks {
    /// Creates clocks in files in `dir`, all with the right time. Returns `None` if the library is not installed.
    pub fn within(dir: &Path) -> Option<Self> {
        let roots = std::fs::read_dir(LIBRARIES).ok()?;
        let paths = roots.flatten().map(|entry| entry.path().join(LIBRARY));
        let library = paths
            .chain([Path::new(LIBRARIES).join(LIBRARY)])
            .find(|path| path.is_file())?;
        Some(Self {
            library,
            dir: dir.to_path_buf(),
        })
    }

    /// Sets a master's wall clock ahead of the right time by this offset, or behind it.
    pub fn set(&self, node: u64, ahead_s: i64) {
        let file = self.file(node);
        let next = file.with_extension("next");
        std::fs::write(&next, format!("{ahead_s:+}\n")).expect("the directory is writable");
        std::fs::rename(next, file).expect("the directory is writable");
    }

    /// Makes the command of this master use its fake clock.
    pub(crate) fn apply(&self, command: &mut Command, node: u64) {
        if !self.file(node).is_file() {
            self.set(node, 0);
        }
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.file(node))
            .env("FAKETIME_CACHE_DURATION", "1")
            // The same setting under the newer and the older name of the variable.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
    }

    fn file(&self, node: u64) -> PathBuf {
        self.dir.join(format!("clock-{node}"))
    }
}

/// Removes the shared memory of libfaketime for a process that has ended. A killed process leaves it behind.
pub(crate) fn clear(pid: u32) {
    for name in [
        format!("faketime_shm_{pid}"),
        format!("sem.faketime_sem_{pid}"),
    ] {
        // Most processes have left none.
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::processes::process::Process;
    use crate::wait::until;

    #[tokio::test]
    async fn a_killed_process_leaves_nothing_in_memory() {
        let dir = tempfile::tempdir().expect("a directory for the clocks");
        let Some(fake_clocks) = FakeClocks::within(dir.path()) else {
            eprintln!("skipped: libfaketime is not installed (Debian package faketime)");
            return;
        };
        let mut command = Command::new("sleep");
        command.arg("600");
        fake_clocks.apply(&mut command, 1);
        let mut sleeper = Process::spawn("sleeper", command, &dir.path().join("log"));
        let kept = Path::new("/dev/shm").join(format!("faketime_shm_{}", sleeper.pid()));
        until(
            Duration::from_secs(20),
            "libfaketime is loaded",
            async || kept.exists(),
        )
        .await;
        sleeper.kill9();
        assert!(!kept.exists());
    }
}

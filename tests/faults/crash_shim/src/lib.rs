//! Ends a process at the n-th thing it does to its disk: a kill, or a power cut, at a chosen instant.
//!
//! A library is loaded before the process's own (`shim.c`, built with `cc` when it is first needed) and counts what the
//! process does below one directory: each write, sync, truncation, creation, renaming and removal is a *boundary*. A first
//! run counts them; then the same is done again, ending the process at each in turn, and the test looks at what is left.
//!
//! A kill keeps what the kernel had taken, so it shows whether things happen in the right order. A power cut also takes
//! back what was not synced, so it shows whether they were durable when they were said to be. What a power cut is taken to
//! lose stands at the top of `shim.c`.
//!
//! Invariants: what happens outside of the directory is not touched; a process that was not ended behaves as without the
//! library. Not here: what such a process does, and what must be left of it.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use strum::VariantArray;

const SHIM: &str = include_str!("shim.c");
const POWER_CUT: &str = include_str!("power_cut.h");

/// How a process ends at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, VariantArray)]
pub enum CrashMode {
    /// Killed before it.
    Before,
    /// Killed in the middle of a write, of which some first bytes are there; before anything else.
    Torn,
    /// Killed after it, before the process learns of it.
    After,
    /// Power cut before it: everything unsynced is lost.
    Cut,
    /// Power cut before it: of what is unsynced, any 512 bytes are there or not.
    CutSome,
}

impl CrashMode {
    fn name(self) -> &'static str {
        match self {
            CrashMode::Before => "before",
            CrashMode::Torn => "torn",
            CrashMode::After => "after",
            CrashMode::Cut => "cut",
            CrashMode::CutSome => "cut-some",
        }
    }
}

impl fmt::Display for CrashMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// At which boundary, counted from 1.
    pub at: u64,
    /// In which manner.
    pub how: CrashMode,
    /// Chooses what a torn write and a power cut leave.
    pub seed: u64,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} boundary {} (seed {})", self.how, self.at, self.seed)
    }
}

/// What boundaries are, in the order of the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray)]
pub enum BoundaryKind {
    /// Writing to a file.
    Write,
    /// Syncing a file or a directory, or writing it out.
    Sync,
    /// Changing a file's length.
    Size,
    /// Making a file or a directory.
    Create,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
}

/// What a process with the library has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundaryCounts {
    /// Boundaries it reached.
    pub boundaries: u64,
    /// The same by kind, in the order of [`BoundaryKind`].
    pub by_kind: [u64; 6],
    /// The boundary it was ended at and its kind, if it was.
    pub ended: Option<(u64, BoundaryKind)>,
}

/// A directory under watch, for one run of one process.
#[derive(Debug)]
pub struct Watch {
    counts: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Watch {
    /// Prepares a run whose boundaries are what happens below `root`, which has no links in its path. With a `point` it
    /// ends there, else it is only counted. A file and a directory are made beside `root` for the library's own needs.
    pub fn new(root: &Path, point: Option<Point>) -> Self {
        let beside = |ending: &str| {
            let mut path = root.as_os_str().to_os_string();
            path.push(ending);
            PathBuf::from(path)
        };
        let counts = beside(".tally");
        // What an earlier run left.
        let _ = fs::remove_file(&counts);
        let _ = fs::remove_dir_all(beside(".attic"));
        let how = point.map_or("count", |point| point.how.name());
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("LD_PRELOAD", library().into()),
            ("TRIARCH_CRASH_ROOT", root.into()),
            ("TRIARCH_CRASH_TALLY", counts.clone().into()),
            ("TRIARCH_CRASH_HOW", how.into()),
        ];
        if let Some(point) = point {
            variables.push(("TRIARCH_CRASH_AT", point.at.to_string().into()));
            variables.push(("TRIARCH_CRASH_SEED", point.seed.to_string().into()));
        }
        Watch { counts, variables }
    }

    /// Has the process of this command watched.
    pub fn over(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// What has been counted so far, also while it runs. Panics if the library was not loaded.
    pub fn boundary_counts(&self) -> BoundaryCounts {
        let bytes = fs::read(&self.counts)
            .unwrap_or_else(|error| panic!("the library that counts was not loaded: {error}"));
        let numbers: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|chunk| u64::from_ne_bytes(chunk.try_into().expect("eight bytes")))
            .collect();
        let [boundaries, kinds @ .., ended_at, ended_in] = &numbers[..] else {
            panic!("a tally of {} bytes", bytes.len());
        };
        BoundaryCounts {
            boundaries: *boundaries,
            by_kind: kinds.try_into().expect("a number for each kind"),
            ended: (*ended_at > 0).then(|| (*ended_at, BoundaryKind::VARIANTS[*ended_in as usize])),
        }
    }
}

/// So many points over a life with `boundaries`, evenly, going round through all the ways; each point once, and no more than
/// there are. They are chosen by `seed`.
pub fn points(boundaries: u64, count: u64, seed: u64) -> Vec<Point> {
    let ways = CrashMode::VARIANTS.len() as u64;
    let count = count.min(boundaries * ways);
    // Neighbours go different ways, so those that fall on one boundary are different points.
    (0..count)
        .map(|nth| Point {
            at: (nth * boundaries + seed % boundaries) / count % boundaries + 1,
            how: CrashMode::VARIANTS[((nth + seed) % ways) as usize],
            seed: seed.wrapping_add(nth),
        })
        .collect()
}

/// The shim, compiled once per process.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // Beside the program, so that it is cleared away with it, and under its own number, so that nobody else writes it.
        let beside = std::env::current_exe().expect("the test has a path");
        let dir = beside.parent().expect("a program is in a directory");
        let source = dir.join(format!("crash-shim-{}.c", std::process::id()));
        let made = source.with_extension("so");
        let library = dir.join("crash-shim.so");
        let shim = SHIM.replace("#include \"power_cut.h\"", POWER_CUT);
        fs::write(&source, shim).expect("the directory of the test can be written");
        let output = Command::new("cc")
            .args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
            .arg(&made)
            .arg(&source)
            .args(["-ldl", "-lpthread"])
            .output()
            .unwrap_or_else(|error| panic!("cannot run cc: {error}; the tests need it"));
        assert!(
            output.status.success(),
            "the shim does not compile: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let _ = fs::remove_file(&source);
        fs::rename(&made, &library).expect("the directory of the test can be written");
        library
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn run(
        root: &Path,
        point: Option<Point>,
        script: &str,
    ) -> (BoundaryCounts, std::process::ExitStatus) {
        let watch = Watch::new(root, point);
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(root);
        watch.over(&mut command);
        let status = command.status().expect("a shell");
        (watch.boundary_counts(), status)
    }

    fn fresh() -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("triarch-crash-{}-{nth}", std::process::id());
        let root = std::env::temp_dir()
            .canonicalize()
            .expect("a temporary directory")
            .join(name);
        fs::create_dir(&root).expect("a directory can be made");
        root
    }

    fn clear(root: &Path) {
        for ending in ["", ".attic"] {
            let mut path = root.as_os_str().to_os_string();
            path.push(ending);
            let _ = fs::remove_dir_all(path);
        }
        let mut path = root.as_os_str().to_os_string();
        path.push(".tally");
        let _ = fs::remove_file(path);
    }

    #[test]
    fn a_process_ends_at_the_chosen_point_and_loses_unsynced_writes() {
        let script = "exec >$PWD/file; printf one; printf two; printf three";
        let root = fresh();
        let (counts, status) = run(&root, None, script);
        assert!(status.success() && counts.ended.is_none());
        assert_eq!(
            (counts.boundaries, counts.by_kind),
            (4, [3, 0, 0, 1, 0, 0]),
            "three writes and a file"
        );
        clear(&root);
        let expected = [
            (CrashMode::Before, Some("one")),
            (CrashMode::After, Some("onetwo")),
            (CrashMode::Cut, None),
        ];
        for (how, left) in expected {
            let root = fresh();
            let point = Point {
                at: 3,
                how,
                seed: 1,
            };
            let (counts, status) = run(&root, Some(point), script);
            assert_eq!(status.signal(), Some(libc::SIGKILL), "{point}");
            assert_eq!(counts.ended, Some((3, BoundaryKind::Write)));
            let found = fs::read_to_string(root.join("file")).ok();
            assert_eq!(found.as_deref(), left, "{point}");
            clear(&root);
        }
    }

    #[test]
    fn points_are_spread_and_all_of_them_are_there() {
        let some = points(100, 50, 7);
        assert_eq!(some.len(), 50);
        assert!(some.iter().all(|point| (1..=100).contains(&point.at)));
        assert!(
            CrashMode::VARIANTS
                .iter()
                .all(|how| some.iter().any(|p| p.how == *how))
        );
        let mut all = points(10, u64::MAX, 7);
        all.sort_by_key(|point| (point.at, point.how));
        all.dedup_by_key(|point| (point.at, point.how));
        assert_eq!(all.len(), 50);
    }
}

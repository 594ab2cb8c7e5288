//! Crash shim: ends a process at its n-th disk operation, by a kill or a power cut.
//!
//! A library is loaded into the process (`shim.c`, built with `cc` at first use). It counts the disk operations of the
//! process below one directory: each write, sync, truncation, creation, renaming and removal is a *boundary*. A first
//! run counts the boundaries. Further runs end the process at one boundary each, and the test checks what is left on
//! disk.
//!
//! A kill keeps everything that the kernel had accepted, so it tests the order of operations. A power cut also takes
//! back what was not synced, so it tests whether operations were durable when they were reported as such. The top of
//! `power_cut.h` lists what a power cut can lose.
//!
//! Invariants: operations outside of the directory are not affected, and a process that is not ended behaves as without
//! the library. The tests decide what the process does and what must be left.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use strum::VariantArray;

const SHIM: &str = include_str!("shim.c");
const POWER_CUT: &str = include_str!("power_cut.h");

/// The way in which a process ends at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, VariantArray)]
pub enum CrashMode {
    /// Kill before the operation.
    Before,
    /// Kill in the middle of a write, of which a prefix is written. Before any other operation.
    Torn,
    /// Kill after the operation, before the process gets its result.
    After,
    /// Power cut before the operation: all unsynced data is lost.
    Cut,
    /// Power cut before the operation: each 512 bytes of unsynced data are kept or lost.
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

/// The point at which a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Number of the boundary, from 1.
    pub at: u64,
    /// The way in which it ends.
    pub how: CrashMode,
    /// Seed that determines what a torn write and a power cut leave.
    pub seed: u64,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} boundary {} (seed {})", self.how, self.at, self.seed)
    }
}

/// Kinds of boundaries, in the order of the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray)]
pub enum BoundaryKind {
    /// A write to a file.
    Write,
    /// A sync of a file or a directory, or a writeback.
    Sync,
    /// A change of a file's length.
    Size,
    /// The creation of a file or a directory.
    Create,
    /// A renaming.
    Rename,
    /// A removal.
    Remove,
}

/// Counts of a process with the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundaryCounts {
    /// Number of boundaries that it reached.
    pub boundaries: u64,
    /// Number of boundaries by kind, in the order of [`BoundaryKind`].
    pub by_kind: [u64; 6],
    /// The boundary at which it was ended, and its kind, if it was ended.
    pub ended: Option<(u64, BoundaryKind)>,
}

/// A watched directory, for one run of one process.
#[derive(Debug)]
pub struct Watch {
    counts: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Watch {
    /// Prepares a run whose boundaries are the operations below `root`. The path of `root` must not contain links. With
    /// a `point` the process ends there. Otherwise its boundaries are only counted. A file and a directory next to
    /// `root` are created for the library.
    pub fn new(root: &Path, point: Option<Point>) -> Self {
        let beside = |ending: &str| {
            let mut path = root.as_os_str().to_os_string();
            path.push(ending);
            PathBuf::from(path)
        };
        let counts = beside(".tally");
        // Left by an earlier run.
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

    /// Sets up the command so that its process is watched.
    pub fn over(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Returns the counts so far, also while the process runs. Panics if the library was not loaded.
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

/// Returns this many points, spread evenly over the `boundaries` of a life, with all ways in turn. No point occurs
/// twice, and there are no more than exist. They are chosen by `seed`.
pub fn points(boundaries: u64, count: u64, seed: u64) -> Vec<Point> {
    let ways = CrashMode::VARIANTS.len() as u64;
    let count = count.min(boundaries * ways);
    // Adjacent points use different ways, so that two points at one boundary differ.
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
        // Stored next to the program, so that it is removed with it, under a name with the process id, so that no other
        // process writes it.
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

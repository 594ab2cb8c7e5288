//! Memory that this process may use, and the bounds that are derived from it.
//!
//! The leader checks the bound on the table before it proposes a command. Apply never checks it: apply must decide the
//! same on every replica, and the replicas may run on machines with different memory.
//!
//! Sources: `memory.max` of cgroup v2, `memory.limit_in_bytes` of cgroup v1, `MemTotal` of `/proc/meminfo`.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory of a task in the table in addition to its payload, result and error, in bytes. An estimate.
const TASK_BYTES: u64 = 800;
/// Upper limits of the bounds, on machines with much memory, in bytes.
const TABLE_BYTES_MAX: u64 = 4 << 30;
const BUFFER_BYTES_MAX: u64 = 256 << 20;
/// Minimum of a buffer for bodies or answers, in bytes.
const BUFFER_BYTES_MIN: u64 = 1 << 20;

/// Returns the memory that this process may use, in bytes: the lowest of the machine's memory and the limits of its
/// cgroups.
pub fn detect() -> Option<u64> {
    detect_in(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn detect_in(proc: &Path, cgroups: &Path) -> Option<u64> {
    let groups = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limits_of(line, cgroups));
    limits.chain(machine(proc)).min()
}

fn machine(proc: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(proc.join("meminfo")).ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// Returns the limits of the group in a line of `/proc/self/cgroup`, and of the groups above it.
fn limits_of(line: &str, cgroups: &Path) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (root, file) = if controllers.is_empty() {
        (cgroups.to_path_buf(), "memory.max")
    } else if controllers.split(',').any(|name| name == "memory") {
        (cgroups.join("memory"), "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    // In a container the path may be that of the host. The container's own group is then mounted as the root.
    let mut at: PathBuf = root.join(group.trim_start_matches('/'));
    let mut limits = Vec::new();
    loop {
        let limit = fs::read_to_string(at.join(file)).ok();
        limits.extend(limit.and_then(|text| text.trim().parse::<u64>().ok()));
        if at == root || !at.pop() || !at.starts_with(&root) {
            return limits;
        }
    }
}

/// Bounds derived from the memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBounds {
    /// Maximum memory of the table, in bytes. Beyond it the leader accepts no more tasks.
    pub table_bytes_max: u64,
    /// Maximum memory for bodies of client requests, in bytes.
    pub body_bytes_max: u64,
    /// Maximum memory for answers that are being written, in bytes.
    pub answer_bytes_max: u64,
}

impl MemoryBounds {
    /// Returns the bounds within this much memory: three eighths for the table, and a sixteenth each for bodies and for
    /// answers. The rest is for snapshots, the copy-on-write pages during one, the log's cache and connections.
    pub fn within(memory_bytes: u64) -> Self {
        let buffer = (memory_bytes / 16).clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        Self {
            table_bytes_max: (memory_bytes / 8 * 3).min(TABLE_BYTES_MAX),
            body_bytes_max: buffer,
            answer_bytes_max: buffer,
        }
    }
}

/// Returns an estimate of the memory of a table, in bytes.
pub fn table_bytes(payload_bytes: u64, tasks: u64) -> u64 {
    payload_bytes.saturating_add(tasks.saturating_mul(TASK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the memory found in a made-up system with these files.
    fn found(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            fs::write(path, text).expect("written");
        }
        detect_in(&root.path().join("proc"), &root.path().join("cgroup"))
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       1000 kB\nMemFree: 5 kB\n");

    #[test]
    fn memory_is_the_least_of_the_machine_and_all_groups_above() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[MEMINFO]), Some(1_024_000));
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        let limit = |name: &'static str, text: &'static str| (name, text);
        let unlimited = limit("cgroup/a/b/memory.max", "max\n");
        assert_eq!(found(&[MEMINFO, v2, unlimited]), Some(1_024_000));
        let above = limit("cgroup/a/memory.max", "500000\n");
        assert_eq!(found(&[MEMINFO, v2, unlimited, above]), Some(500_000));
        // The group's path is the host's, and the container has its own group at the root.
        let root = limit("cgroup/memory.max", "400000\n");
        assert_eq!(found(&[MEMINFO, v2, root]), Some(400_000));
        let v1 = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n");
        let old = limit("cgroup/memory/x/memory.limit_in_bytes", "300000\n");
        assert_eq!(found(&[MEMINFO, v1, old]), Some(300_000));
    }

    #[test]
    fn bounds_are_shares_of_the_memory_up_to_fixed_ones() {
        let small = MemoryBounds::within(1 << 30);
        assert_eq!(small.table_bytes_max, 384 << 20);
        assert_eq!(small.body_bytes_max, 64 << 20);
        let large = MemoryBounds::within(64 << 30);
        assert_eq!(large.table_bytes_max, TABLE_BYTES_MAX);
        assert_eq!(large.answer_bytes_max, BUFFER_BYTES_MAX);
    }
}

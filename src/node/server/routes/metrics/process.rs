//! Process and disk metrics of this node. Names that begin with `process_` follow the convention of Prometheus clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::{SysconfVar, sysconf};
use triarch_process::log_writer;

use super::families::{Labels, MetricFamilies};
use crate::server::app::App;

/// Maximum time to measure the disk. After that, the scrape goes without the measurement.
const DISK_USAGE_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum number of files measured; far more than a node has.
const FILES_MAX: usize = 10_000;

/// Disk usage in bytes.
#[derive(Debug, Default)]
struct DiskUsage {
    log: u64,
    snapshots: u64,
    free: Option<u64>,
    size: Option<u64>,
}

pub async fn collect(app: &App, out: &mut MetricFamilies) {
    process(out);
    let data_dir = app.data_dir.clone();
    // One measurement at a time, because scrapes must not pile up on a disk that hangs.
    let measurement = match std::sync::Arc::clone(&app.disk_usage_permit).try_acquire_owned() {
        Ok(permit) => Some(tokio::task::spawn_blocking(move || {
            let disk = measure_disk(&data_dir);
            drop(permit);
            disk
        })),
        Err(_) => None,
    };
    let disk = match measurement {
        Some(measurement) => match tokio::time::timeout(DISK_USAGE_TIMEOUT, measurement).await {
            Ok(Ok(disk)) => Some(disk),
            Ok(Err(_)) | Err(_) => None,
        },
        None => None,
    };
    let sample = |value: Option<u64>| {
        let value = value.map(|value| (Labels::new(), value as f64));
        value.into_iter().collect()
    };
    out.gauges(
        "triarch_log_bytes",
        "Disk space used by the log.",
        sample(disk.as_ref().map(|disk| disk.log)),
    );
    out.gauges(
        "triarch_snapshot_bytes",
        "Disk space used by snapshots, including one that is being written or received.",
        sample(disk.as_ref().map(|disk| disk.snapshots)),
    );
    out.gauges(
        "triarch_disk_free_bytes",
        "Free space on the file system of the data directory.",
        sample(disk.as_ref().and_then(|disk| disk.free)),
    );
    out.gauges(
        "triarch_disk_size_bytes",
        "Size of the file system of the data directory.",
        sample(disk.as_ref().and_then(|disk| disk.size)),
    );
}

fn measure_disk(data_dir: &Path) -> DiskUsage {
    let space = statvfs(data_dir).ok();
    let bytes = |blocks: u64, fragment: u64| blocks.saturating_mul(fragment);
    DiskUsage {
        log: bytes_below(&data_dir.join("log")),
        snapshots: bytes_below(&data_dir.join("snapshots")),
        free: space
            .as_ref()
            .map(|space| bytes(space.blocks_available(), space.fragment_size())),
        size: space
            .as_ref()
            .map(|space| bytes(space.blocks(), space.fragment_size())),
    }
}

/// Returns the size of the files below a directory. A file that vanishes during the walk counts as 0.
fn bytes_below(directory: &Path) -> u64 {
    let mut open: Vec<PathBuf> = vec![directory.to_path_buf()];
    let (mut bytes, mut files) = (0_u64, 0);
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            files += 1;
            if files > FILES_MAX {
                return bytes;
            }
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) => bytes = bytes.saturating_add(found.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}

fn process(out: &mut MetricFamilies) {
    let sample = |value: Option<f64>| {
        let value = value.map(|value| (Labels::new(), value));
        value.into_iter().collect::<Vec<_>>()
    };
    let unit = |name| sysconf(name).ok().flatten().map(|value| value as f64);
    let page = unit(SysconfVar::PAGE_SIZE);
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    out.counter(
        "triarch_log_lines_dropped",
        "Log lines that could not be written.",
        log_writer::dropped_lines() as f64,
    );
    out.gauges(
        "process_resident_memory_bytes",
        "Resident memory of this process.",
        sample(resident.zip(page).map(|(pages, page)| pages * page)),
    );
    let ticks = unit(SysconfVar::CLK_TCK);
    // Fields are counted after the last parenthesis, because the name may contain anything. The state is the first of
    // them.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let field = |place: usize| fields.get(place).and_then(|text| text.parse::<f64>().ok());
    let cpu = field(11).zip(field(12)).zip(ticks);
    out.counters(
        "process_cpu_seconds",
        "Processor time used by this process.",
        sample(cpu.map(|((user, system), ticks)| (user + system) / ticks)),
    );
    let booted = fs::read_to_string("/proc/stat").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
        line.parse::<f64>().ok()
    });
    let started = field(19).zip(ticks).zip(booted);
    out.gauges(
        "process_start_time_seconds",
        "Start time of this process, as Unix time.",
        sample(started.map(|((since_boot, ticks), booted)| booted + since_boot / ticks)),
    );
    let open = fs::read_dir("/proc/self/fd").ok();
    out.gauges(
        "process_open_fds",
        "Open file descriptors.",
        sample(open.map(|entries| entries.count() as f64)),
    );
    let limits = fs::read_to_string("/proc/self/limits").ok();
    let max = limits.and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    });
    out.gauges(
        "process_max_fds",
        "Maximum number of open file descriptors.",
        sample(max),
    );
}

//! The load of the worker's host, which the leader uses to choose among workers.

use std::time::{Duration, Instant};

use crate::wire::Load;

/// Minimum time between two samples. Over a shorter time, the share of busy ticks is too coarse.
const SAMPLE_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Samples the load. Each sample covers the time since the one before.
#[derive(Debug, Default)]
pub(super) struct HostLoadSampler {
    before: Option<(Instant, CpuTimes)>,
    cpu: Option<f64>,
}

/// Time spent by the processors, in ticks since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTimes {
    idle: u64,
    all: u64,
}

impl HostLoadSampler {
    /// Returns the current load. `None` where the system does not report it.
    pub(super) fn sample(&mut self) -> Option<Load> {
        let now = Instant::now();
        let cpu_times = read("/proc/stat").as_deref().and_then(cpu_times);
        match (self.before, cpu_times) {
            (Some((at, _)), _) if now.duration_since(at) < SAMPLE_INTERVAL_MIN => {}
            (before, Some(cpu_times)) => {
                self.cpu = before.and_then(|(_, before)| busy(before, cpu_times));
                self.before = Some((now, cpu_times));
            }
            (_, None) => {}
        }
        let mem_mb = read("/proc/meminfo").as_deref().and_then(memory_mb);
        let load = Load {
            cpu: self.cpu,
            mem_mb,
        };
        (load.cpu.is_some() || load.mem_mb.is_some()).then_some(load)
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Parses the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map_while(|word| word.parse().ok())
        .collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some(CpuTimes {
        idle,
        all: ticks.iter().sum(),
    })
}

/// Returns the share of the time between two readings in which the processors were busy.
fn busy(before: CpuTimes, now: CpuTimes) -> Option<f64> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    let idle = now.idle.checked_sub(before.idle)?.min(all);
    Some((all - idle) as f64 / all as f64)
}

/// Returns the memory in use in MiB: `MemTotal` minus `MemAvailable` of `/proc/meminfo`.
fn memory_mb(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(kib("MemTotal:")?.saturating_sub(kib("MemAvailable:")?) / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_read_from_proc() {
        let stat = "cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 1 1 1\n";
        let before = cpu_times(stat).expect("a line of numbers");
        assert_eq!(
            before,
            CpuTimes {
                idle: 850,
                all: 1_000
            }
        );
        let now = CpuTimes {
            idle: 900,
            all: 1_200,
        };
        assert_eq!(busy(before, now), Some(0.75));
        assert_eq!(busy(now, now), None);
        let meminfo = "MemTotal:       4096000 kB\nMemFree: 1 kB\nMemAvailable:   2048000 kB\n";
        assert_eq!(memory_mb(meminfo), Some(2_000));
    }

    #[test]
    fn unreadable_proc_files_give_no_load() {
        assert_eq!(cpu_times("intr 1 2 3"), None);
        assert_eq!(cpu_times("cpu  1 2"), None);
        assert_eq!(memory_mb("MemTotal: many kB"), None);
    }

    #[test]
    fn two_samples_in_a_row_share_one_reading() {
        let mut sampler = HostLoadSampler::default();
        let first = sampler.sample();
        let before = sampler.before;
        assert_eq!(first.and_then(|load| load.cpu), None);
        sampler.sample();
        assert_eq!(sampler.before, before);
    }
}

//! Reaper of processes that commands leave behind outside of their process groups.
//!
//! A process whose parent has ended is adopted by the nearest subreaper, or by PID 1. The worker is a subreaper, so that
//! what leaves a command's group (`setsid`, a daemon) comes to it. It reaps the dead ones, and kills those whose attempt
//! has ended. They are recognised by the lease in their environment.
//!
//! # Invariants
//!
//! - Children that the worker started itself are registered, and only their owner waits for them.
//! - A child that the worker did not start is signalled only while it is unreaped, and only if it belongs to an attempt
//!   of this worker that has ended.
//!
//! A process that removes the lease from its environment is not recognised. A control group would hold it, see
//! [`cgroup`](super::cgroup).

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Pause before a search, in which the processes of an attempt that has just ended die.
const SEARCH_DELAY: Duration = Duration::from_millis(50);
/// Minimum time between two searches.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// Searches take at most one part in this many of the time.
const SEARCH_SHARE: u32 = 50;
/// Maximum searches in a row after processes were killed: their children come to the worker then.
const ROUNDS_MAX: usize = 20;
/// Environment variables that name the attempt of a command.
pub const TASK_ENV: &str = "TRIARCH_TASK";
pub const TOKEN_ENV: &str = "TRIARCH_TOKEN";

/// Children of this worker, and the attempts that run.
#[derive(Debug, Default)]
pub struct Children {
    state: Mutex<ChildrenState>,
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct ChildrenState {
    /// Processes that the worker started itself and waits for.
    owned: BTreeSet<i32>,
    /// Attempts that run.
    leases: BTreeSet<Lease>,
    /// Whether there may be something to do.
    wanted: bool,
}

/// Task and token of an attempt, as its command finds them in its environment.
pub type Lease = (String, String);

/// Registration of a running attempt, until it is dropped.
#[derive(Debug)]
pub struct RunningLease {
    children: Arc<Children>,
    lease: Lease,
}

impl Drop for RunningLease {
    fn drop(&mut self) {
        self.children.lock().leases.remove(&self.lease);
        self.children.search();
    }
}

impl Children {
    /// Starts a child and registers it. No other child is reaped in between.
    pub fn start<T>(&self, start: impl FnOnce() -> io::Result<(i32, T)>) -> io::Result<T> {
        let mut state = self.lock();
        let (pid, child) = start()?;
        state.owned.insert(pid);
        Ok(child)
    }

    /// Reaps a child that has ended, and removes it. No other child gets its number in between.
    pub fn reap_owned<T>(&self, pid: i32, reap: impl FnOnce() -> T) -> T {
        let mut state = self.lock();
        let reaped = reap();
        state.owned.remove(&pid);
        reaped
    }

    /// Registers a running attempt.
    pub fn lease(self: &Arc<Self>, lease: Lease) -> RunningLease {
        self.lock().leases.insert(lease.clone());
        RunningLease {
            children: self.clone(),
            lease,
        }
    }

    /// Requests a search.
    pub fn search(&self) {
        self.lock().wanted = true;
        self.wanted.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, ChildrenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a search is requested.
    fn wait_until_wanted(&self) {
        let mut state = self.lock();
        while !state.wanted {
            state = self
                .wanted
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted = false;
    }

    /// Reaps dead children that nobody else waits for, and kills those of ended attempts. Returns how many it killed.
    fn reap(&self) -> usize {
        let mut killed = 0;
        for pid in children_of(std::process::id()) {
            // Under the lock, no child is started that is not registered yet.
            let state = self.lock();
            if state.owned.contains(&pid) {
                continue;
            }
            let id = Pid::from_raw(pid);
            if waitpid(id, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid() == Some(id))
            {
                continue;
            }
            let ended = lease_of(pid).is_some_and(|lease| !state.leases.contains(&lease));
            if ended && kill(id, Signal::SIGKILL).is_ok() {
                killed += 1;
            }
        }
        killed
    }
}

/// Makes the worker a subreaper, and starts the thread that reaps.
pub fn start(children: Arc<Children>) -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    std::thread::Builder::new()
        .name("child-reaper".to_owned())
        .spawn(move || {
            loop {
                children.wait_until_wanted();
                std::thread::sleep(SEARCH_DELAY);
                let begun = Instant::now();
                let mut rounds = 0;
                while children.reap() > 0 && rounds < ROUNDS_MAX {
                    rounds += 1;
                    std::thread::sleep(SEARCH_DELAY);
                }
                let took = begun.elapsed();
                std::thread::sleep(
                    SEARCH_INTERVAL
                        .max(took * SEARCH_SHARE)
                        .saturating_sub(took),
                );
            }
        })?;
    Ok(())
}

/// Returns the children of a process, dead ones included.
fn children_of(parent: u32) -> Vec<i32> {
    let mut found = Vec::new();
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    for thread in threads.flatten() {
        // Some kernels are built without these files.
        let Ok(children) = std::fs::read_to_string(thread.path().join("children")) else {
            return children_in_process_list(parent);
        };
        found.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    found
}

fn children_in_process_list(parent: u32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program, in parentheses, may contain anything.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name
            .split(' ')
            .nth(1)
            .and_then(|ppid| ppid.parse().ok())
            == Some(parent)
    };
    pids.filter(is_child).collect()
}

/// Returns the lease in the environment that a process was started with.
fn lease_of(pid: i32) -> Option<Lease> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |wanted: &str| {
        let variables = environment.split(|byte| *byte == 0);
        variables.into_iter().find_map(|variable| {
            let value = variable
                .strip_prefix(wanted.as_bytes())?
                .strip_prefix(b"=")?;
            Some(std::str::from_utf8(value).ok()?.to_owned())
        })
    };
    Some((value(TASK_ENV)?, value(TOKEN_ENV)?))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sleep_with(lease: Option<(&str, &str)>) -> std::process::Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        if let Some((task, token)) = lease {
            command.env(TASK_ENV, task).env(TOKEN_ENV, token);
        }
        command.spawn().expect("started")
    }

    fn pid(child: &std::process::Child) -> i32 {
        i32::try_from(child.id()).expect("a pid")
    }

    #[test]
    fn only_dead_children_and_those_of_ended_attempts_are_reaped() {
        // Other tests of this process have children too, so each child is looked at by itself.
        let children: Arc<Children> = Arc::default();
        let running = children.lease(("t1-0".to_owned(), "7".to_owned()));
        let mut of_running = sleep_with(Some(("t1-0", "7")));
        let mut of_ended = sleep_with(Some(("t1-0", "6")));
        let mut without = sleep_with(None);
        let ended = |child: &std::process::Child, children: &Children| {
            let lease = lease_of(pid(child));
            lease.is_some_and(|lease| !children.lock().leases.contains(&lease))
        };
        assert!(
            !ended(&of_running, &children)
                && ended(&of_ended, &children)
                && !ended(&without, &children)
        );
        let own = children_of(std::process::id());
        for child in [&of_running, &of_ended, &without] {
            assert!(own.contains(&pid(child)));
        }
        drop(running);
        assert!(ended(&of_running, &children));
        for child in [&mut of_running, &mut of_ended, &mut without] {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
    }

    #[test]
    fn the_process_list_shows_the_same_children() {
        let mut child = sleep_with(None);
        assert!(children_in_process_list(std::process::id()).contains(&pid(&child)));
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}

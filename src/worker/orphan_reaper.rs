//! Sees to it that commands die with their worker, even when that is killed with SIGKILL.
//!
//! A small process watches over the worker: a copy of it, made once, that holds the reading end of a pipe and a list of
//! process groups. The worker tells it every group that begins and ends. When the pipe ends, the worker is gone, and the
//! groups still listed are killed. Unlike the kernel's own `PR_SET_PDEATHSIG` this reaches whatever a command has
//! started, and leaves the fast way of starting commands open (no code has to run between fork and exec).
//!
//! Invariant: a group is listed only while its leader is unreaped, so its number cannot belong to anybody else.
//!
//! What it deliberately does not do: it does not outlive its purpose (it ends right after the worker), and a process
//! that left its group is on its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

/// So many groups are watched at most; more than a worker may have slots.
const GROUPS_MAX: usize = 16 << 10;
/// After it has read all there is, the watching process rests for so long: what it is told is of use only once the worker
/// is gone, and being woken for each command would take processor time from the commands. Much less than the pipe holds is
/// told meanwhile.
const REST: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// What the watching process is called in a list of processes.
const NAME: &std::ffi::CStr = c"triarch-guard";

/// The worker's side of it.
#[derive(Debug)]
pub struct Guard {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    groups: BTreeSet<i32>,
    watcher: Option<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    process: Pid,
    line: File,
}

impl Guard {
    /// Starts the watching process.
    pub fn start() -> io::Result<Self> {
        let watcher = Watcher::start()?;
        Ok(Self {
            state: Mutex::new(State {
                groups: BTreeSet::new(),
                watcher: Some(watcher),
            }),
        })
    }

    /// The group has begun.
    pub fn watch(&self, group: Pid) {
        let mut state = self.lock();
        state.groups.insert(group.as_raw());
        if state.groups.len() > GROUPS_MAX {
            tracing::warn!(%group, "too many commands: this one will outlive the worker if that is killed");
        }
        state.tell(group.as_raw());
    }

    /// The group has ended; its leader is about to be reaped.
    pub fn release(&self, group: Pid) {
        let mut state = self.lock();
        state.groups.remove(&group.as_raw());
        state.tell(-group.as_raw());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the watcher. One that does not listen (it was killed, or stopped) is replaced, and told everything.
    fn tell(&mut self, word: i32) {
        let told = match &mut self.watcher {
            Some(watcher) => watcher.tell(word),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let Err(error) = told else {
            return;
        };
        tracing::warn!(%error, "the process that watches over commands is replaced");
        // The old one must be gone before the new one works: its list is not true any more.
        self.watcher = None;
        let replaced = Watcher::start().and_then(|mut watcher| {
            self.groups
                .iter()
                .try_for_each(|group| watcher.tell(*group))?;
            Ok(watcher)
        });
        match replaced {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                tracing::error!(%error, "nothing watches over commands: they outlive this worker if it is killed");
            }
        }
    }
}

impl Watcher {
    fn start() -> io::Result<Self> {
        let (listening, line) = pipe2(OFlag::O_CLOEXEC)?;
        // A watcher that does not listen must not block the worker.
        fcntl(line.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut groups = [0; GROUPS_MAX];
        // SAFETY: the child of a process with threads may only make async-signal-safe calls, and `watch_over` makes no
        // others; it never returns.
        match unsafe { fork()? } {
            ForkResult::Child => unsafe { watch_over(listening.as_raw_fd(), &mut groups) },
            ForkResult::Parent { child } => Ok(Self {
                process: child,
                line: File::from(line),
            }),
        }
    }

    fn tell(&mut self, word: i32) -> io::Result<()> {
        // Less than PIPE_BUF: it arrives whole or not at all.
        self.line.write_all(&word.to_ne_bytes())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Nothing is left to be watched over, or another takes its place: either way it must not act any more.
        let _ = kill(self.process, Signal::SIGKILL);
        let _ = waitpid(self.process, None);
    }
}

/// The life of the watching process.
///
/// # Safety
/// Runs in the child of a fork, where nothing may be called but what is async-signal-safe: no allocation, no locks, no
/// panics. It is made of plain system calls on memory of its own.
unsafe fn watch_over(listening: RawFd, groups: &mut [i32; GROUPS_MAX]) -> ! {
    // SAFETY: system calls on integers, and on memory that outlives them.
    unsafe {
        // Signals meant for the worker, such as a terminal's, are none of its business.
        libc::setsid();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        // Nothing of the worker's is kept open: not its sockets, not its output, above all not the pipe's other end.
        libc::dup2(listening, 0);
        if libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) != 0 {
            for fd in 1..4096 {
                libc::close(fd);
            }
        }
        let mut count = 0;
        let mut words = [0_i32; 256];
        loop {
            let bytes = size_of_val(&words);
            let read = libc::read(0, words.as_mut_ptr().cast(), bytes);
            if read < 0 && *libc::__errno_location() == libc::EINTR {
                continue;
            }
            if read <= 0 {
                break;
            }
            let told = read.unsigned_abs() / size_of::<i32>();
            for word in words.iter().take(told) {
                count = noted(groups, count, *word);
            }
            if told < words.len() {
                libc::nanosleep(&REST, std::ptr::null_mut());
            }
        }
        for group in groups.iter().take(count) {
            libc::kill(-group, libc::SIGKILL);
        }
        libc::_exit(0)
    }
}

/// The list after a word: a positive one adds a group, a negative one takes it away. Returns how many there are.
fn noted(groups: &mut [i32; GROUPS_MAX], count: usize, word: i32) -> usize {
    if word > 0 {
        if let Some(free) = groups.get_mut(count) {
            *free = word;
            return count + 1;
        }
        return count;
    }
    let listed = groups.iter().take(count).position(|group| *group == -word);
    if let Some(at) = listed
        && let Some(last) = count.checked_sub(1)
    {
        groups.swap(at, last);
        return last;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_follows_the_words() {
        let mut groups = [0; GROUPS_MAX];
        let mut count = 0;
        for word in [5, 6, 7, -6, -9, 8, -5] {
            count = noted(&mut groups, count, word);
        }
        let mut left = groups[..count].to_vec();
        left.sort_unstable();
        assert_eq!(left, [7, 8]);
    }

    #[test]
    fn a_watcher_that_was_killed_is_replaced_and_told_everything() {
        let guard = Guard::start().expect("started");
        let process = |guard: &Guard| guard.lock().watcher.as_ref().map(|watcher| watcher.process);
        let first = process(&guard).expect("there");
        kill(first, Signal::SIGKILL).expect("killed");
        // Its end of the pipe closes a moment later.
        let group = Pid::from_raw(i32::MAX);
        let begun = std::time::Instant::now();
        while process(&guard) == Some(first) {
            assert!(begun.elapsed().as_secs() < 30, "not replaced in time");
            guard.watch(group);
            guard.release(group);
        }
        assert!(process(&guard).is_some());
    }
}

//! Orphan reaper: kills commands whose worker has died, even by SIGKILL.
//!
//! The reaper is a small process, a fork of the worker, that holds the reading end of a pipe and a list of process
//! groups. The worker reports every group that begins and ends. At the end of the pipe the worker is gone, and the
//! groups still listed are killed. Unlike the kernel's own `PR_SET_PDEATHSIG` this reaches every process that a command
//! has started. It also permits the fast way of starting commands, because no code has to run between fork and exec.
//!
//! A process that left its group is not killed. The reaper ends right after its worker.
//!
//! # Invariants
//!
//! - A group is listed only while its leader is unreaped, so its number cannot belong to another process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use super::child_reaper::Children;

/// Maximum tracked groups; more than a worker may have slots.
const GROUPS_MAX: usize = 16 << 10;
/// Pause of the reaper after it has read the pipe empty. The list matters only once the worker is gone, and waking up
/// for each command would take processor time from the commands. Far less than the pipe holds is written in this time.
const READ_INTERVAL: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// Name of the reaper process in a process list.
const PROCESS_NAME: &std::ffi::CStr = c"triarch-guard";

/// Worker's side of the reaper.
#[derive(Debug)]
pub struct OrphanReaper {
    state: Mutex<ReaperState>,
    children: Arc<Children>,
}

#[derive(Debug)]
struct ReaperState {
    groups: BTreeSet<i32>,
    process: Option<ReaperProcess>,
}

#[derive(Debug)]
struct ReaperProcess {
    pid: Pid,
    pipe: File,
    children: Arc<Children>,
}

impl OrphanReaper {
    /// Starts the reaper.
    pub fn start(children: Arc<Children>) -> io::Result<Self> {
        let process = ReaperProcess::start(&children)?;
        Ok(Self {
            state: Mutex::new(ReaperState {
                groups: BTreeSet::new(),
                process: Some(process),
            }),
            children,
        })
    }

    /// Adds a group that has begun.
    pub fn track(&self, group: Pid) {
        let mut state = self.lock();
        state.groups.insert(group.as_raw());
        if state.groups.len() > GROUPS_MAX {
            tracing::warn!(%group, "too many commands: this one will outlive the worker if that is killed");
        }
        state.send(group.as_raw(), &self.children);
    }

    /// Removes a group that has ended, before its leader is reaped.
    pub fn untrack(&self, group: Pid) {
        let mut state = self.lock();
        state.groups.remove(&group.as_raw());
        state.send(-group.as_raw(), &self.children);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ReaperState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReaperState {
    /// Sends a word to the reaper. A reaper that does not read (it was killed, or stopped) is replaced by one with the
    /// whole list.
    fn send(&mut self, word: i32, children: &Arc<Children>) {
        let sent = match &mut self.process {
            Some(process) => process.send(word),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let Err(error) = sent else {
            return;
        };
        tracing::warn!(%error, "the orphan reaper does not respond: replacing it");
        // The old reaper must be gone before the new one works, because its list is outdated.
        self.process = None;
        let replaced = ReaperProcess::start(children).and_then(|mut process| {
            self.groups
                .iter()
                .try_for_each(|group| process.send(*group))?;
            Ok(process)
        });
        match replaced {
            Ok(process) => self.process = Some(process),
            Err(error) => {
                tracing::error!(%error, "no orphan reaper: commands outlive this worker if it is killed");
            }
        }
    }
}

impl ReaperProcess {
    fn start(children: &Arc<Children>) -> io::Result<Self> {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
        // A reaper that does not read must not block the worker.
        fcntl(writing.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut groups = [0; GROUPS_MAX];
        let command_line = CommandLine::of_this_process();
        let pid = children.start(|| {
            // SAFETY: the child of a process with threads may only make async-signal-safe calls, and `reaper_main` makes
            // no others; it never returns.
            match unsafe { fork()? } {
                ForkResult::Child => unsafe {
                    reaper_main(reading.as_raw_fd(), &mut groups, command_line)
                },
                ForkResult::Parent { child } => Ok((child.as_raw(), child)),
            }
        })?;
        Ok(Self {
            pid,
            pipe: File::from(writing),
            children: children.clone(),
        })
    }

    fn send(&mut self, word: i32) -> io::Result<()> {
        // The word is shorter than PIPE_BUF, so it arrives whole or not at all.
        self.pipe.write_all(&word.to_ne_bytes())
    }
}

impl Drop for ReaperProcess {
    fn drop(&mut self) {
        // No group is left, or another reaper takes over. In both cases this one must not act any more.
        let _ = kill(self.pid, Signal::SIGKILL);
        let reap = || waitpid(self.pid, None);
        let _ = self.children.reap_owned(self.pid.as_raw(), reap);
    }
}

/// Memory of the command line of this process, which a process list shows.
#[derive(Debug, Clone, Copy)]
struct CommandLine {
    start: usize,
    end: usize,
}

impl CommandLine {
    /// Finds it; `None` if the kernel does not tell.
    fn of_this_process() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may contain anything. Fields are counted from the process id on, and the third follows it.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace().skip(45);
        let mut address = || fields.next()?.parse::<usize>().ok();
        let (start, end) = (address()?, address()?);
        (start > 0 && start < end).then_some(Self { start, end })
    }

    /// Replaces it by this text, cut to what fits.
    ///
    /// # Safety
    /// Only in a forked process that does not read its arguments any more. It makes no call, and is async-signal-safe.
    unsafe fn replace_by(self, text: &[u8]) {
        let memory = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        let bytes = self.end - self.start;
        for at in 0..bytes {
            // The last byte stays 0: the kernel takes what follows another one for a part of the text.
            let byte = match text.get(at) {
                Some(byte) if at + 1 < bytes => *byte,
                Some(_) | None => 0,
            };
            // SAFETY: the kernel put the arguments there, on the writable stack, and nothing in this process reads them.
            unsafe { memory.add(at).write_volatile(byte) };
        }
    }
}

/// Main loop of the reaper process.
///
/// # Safety
/// Runs in the child of a fork, where only async-signal-safe functions may be called: no allocation, no locks, no
/// panics. It therefore consists of plain system calls on memory of its own.
unsafe fn reaper_main(
    reading: RawFd,
    groups: &mut [i32; GROUPS_MAX],
    command_line: Option<CommandLine>,
) -> ! {
    // SAFETY: system calls on integers, and on memory that outlives them.
    unsafe {
        // Signals meant for the worker, such as a terminal's, do not concern the reaper.
        libc::setsid();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, PROCESS_NAME.as_ptr());
        if let Some(command_line) = command_line {
            command_line.replace_by(PROCESS_NAME.to_bytes());
        }
        // No descriptor of the worker stays open: no socket, no output, above all not the pipe's writing end.
        libc::dup2(reading, 0);
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
            let received = read.unsigned_abs() / size_of::<i32>();
            for word in words.iter().take(received) {
                count = apply_word(groups, count, *word);
            }
            if received < words.len() {
                libc::nanosleep(&READ_INTERVAL, std::ptr::null_mut());
            }
        }
        for group in groups.iter().take(count) {
            libc::kill(-group, libc::SIGKILL);
        }
        libc::_exit(0)
    }
}

/// Applies a word to the list: a positive one adds a group, a negative one removes it. Returns the new length.
fn apply_word(groups: &mut [i32; GROUPS_MAX], count: usize, word: i32) -> usize {
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
    fn words_add_and_remove_groups() {
        let mut groups = [0; GROUPS_MAX];
        let mut count = 0;
        for word in [5, 6, 7, -6, -9, 8, -5] {
            count = apply_word(&mut groups, count, word);
        }
        let mut left = groups[..count].to_vec();
        left.sort_unstable();
        assert_eq!(left, [7, 8]);
    }

    #[test]
    fn the_reaper_has_a_command_line_of_its_own() {
        let command_line = |pid: Pid| {
            let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let end = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |at| at + 1);
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let own = command_line(Pid::this());
        let reaper = OrphanReaper::start(Arc::default()).expect("started");
        let pid = reaper.lock().process.as_ref().expect("there").pid;
        let begun = std::time::Instant::now();
        while command_line(pid) != "triarch-guard" {
            assert!(begun.elapsed().as_secs() < 30, "{}", command_line(pid));
            std::thread::yield_now();
        }
        assert_eq!(command_line(Pid::this()), own, "the worker keeps its own");
    }

    #[test]
    fn a_killed_reaper_is_replaced_and_sent_the_whole_list() {
        let reaper = OrphanReaper::start(Arc::default()).expect("started");
        let pid = |reaper: &OrphanReaper| reaper.lock().process.as_ref().map(|process| process.pid);
        let first = pid(&reaper).expect("there");
        kill(first, Signal::SIGKILL).expect("killed");
        // The reaper's end of the pipe closes a moment later.
        let group = Pid::from_raw(i32::MAX);
        let begun = std::time::Instant::now();
        while pid(&reaper) == Some(first) {
            assert!(begun.elapsed().as_secs() < 30, "not replaced in time");
            reaper.track(group);
            reaper.untrack(group);
        }
        assert!(pid(&reaper).is_some());
    }
}

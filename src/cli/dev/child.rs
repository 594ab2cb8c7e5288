//! Child process of a development cluster, which cannot outlive its parent.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use triarch_process::private_files;

use super::layout::Layout;
use super::role::Role;

/// Started process. Dropping it does not stop it; see [`Child::kill`].
#[derive(Debug)]
pub struct Child {
    pub role: Role,
    pub pid: u32,
    pub log: PathBuf,
    /// Exit, once it has been seen.
    pub ended: Option<Exit>,
    process: std::process::Child,
    /// Offset in the log file at which this run began.
    log_start: u64,
}

/// Exit of a child.
#[derive(Debug, Clone, Copy)]
pub struct Exit(ExitStatus);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal().map(Signal::try_from)) {
            (Some(code), _) => write!(f, "ended with exit code {code}"),
            (None, Some(Ok(signal))) => write!(f, "was killed by {signal}"),
            (None, _) => write!(f, "ended: {}", self.0),
        }
    }
}

/// Number of lines of a dead child's log that are printed.
const LOG_TAIL_LINES: usize = 8;
/// Number of bytes at the end of a log that are read to find them.
const LOG_TAIL_BYTES: u64 = 8 * 1024;

impl Child {
    /// Starts one process of the cluster; its output goes to its log file.
    pub fn start(layout: &Layout, role: Role) -> anyhow::Result<Self> {
        let log = layout.log(role);
        let file = private_files::append(&log)
            .with_context(|| format!("cannot write the log of {role} to {}", log.display()))?;
        let log_start = file.metadata()?.len();
        let mut command = Command::new(layout.binary());
        command
            .args(layout.arguments(role))
            .args(layout.child_arguments(role))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // The child leaves the terminal's foreground group: Ctrl-C is for the parent, which stops the children in
            // order.
            .process_group(0);
        die_with_parent(&mut command, role);
        let process = command
            .spawn()
            .with_context(|| format!("cannot start {role}"))?;
        Ok(Self {
            role,
            pid: process.id(),
            log,
            ended: None,
            process,
            log_start,
        })
    }

    /// Returns the exit of the child once, the first time it is seen to have ended.
    pub fn poll(&mut self) -> Option<Exit> {
        if self.ended.is_some() {
            return None;
        }
        // A child that cannot be waited for is no longer ours; there is nothing left to report.
        self.ended = self.process.try_wait().ok().flatten().map(Exit);
        self.ended
    }

    /// Returns whether the child still runs.
    pub fn is_alive(&mut self) -> bool {
        self.poll();
        self.ended.is_none()
    }

    /// Asks the child to stop.
    pub fn terminate(&mut self) {
        if self.is_alive() {
            // SIGCONT is needed because a process stopped with `kill -STOP` receives SIGTERM only after it.
            self.signal(Signal::SIGTERM);
            self.signal(Signal::SIGCONT);
        }
    }

    /// Kills the child, and waits until it has ended.
    pub fn kill(&mut self) {
        if self.is_alive() {
            self.signal(Signal::SIGKILL);
            self.ended = self.process.wait().ok().map(Exit);
        }
    }

    /// Sends a signal. Only called on a child that was not yet waited for, so that its pid cannot belong to another
    /// process.
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        // The only possible failure is that the child has ended, which is the purpose of the signal.
        let _ = kill(pid, signal);
    }

    /// Returns the end of the child's log, as a paragraph.
    pub fn log_tail(&self) -> String {
        let lines = self.last_lines().unwrap_or_default();
        if lines.is_empty() {
            return format!("It logged nothing to {}", self.log.display());
        }
        let mut text = format!("The end of {}:", self.log.display());
        for line in lines {
            text.push_str("\n  | ");
            text.push_str(&line);
        }
        text
    }

    fn last_lines(&self) -> std::io::Result<Vec<String>> {
        let mut file = File::open(&self.log)?;
        let len = file.metadata()?.len();
        let start = self.log_start.max(len.saturating_sub(LOG_TAIL_BYTES));
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let cut_in_two = usize::from(start > self.log_start);
        let lines: Vec<&str> = text.lines().skip(cut_in_two).collect();
        let first = lines.len().saturating_sub(LOG_TAIL_LINES);
        Ok(lines[first..]
            .iter()
            .map(|line| line.trim_end().to_owned())
            .collect())
    }
}

/// Makes the kernel end the child when this thread ends, for whatever reason.
fn die_with_parent(command: &mut Command, role: Role) {
    let parent = std::process::id();
    let signal = match role {
        // A master is built to survive power loss, and alone it would only wait for the others.
        Role::Master(_) => libc::SIGKILL,
        // A worker has children of its own to end.
        Role::Worker(_) => libc::SIGTERM,
    };
    let in_child = move || {
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours.
        let (set, parent_now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal), libc::getppid()) };
        if set != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // The parent may have died before the signal was set. Then the signal would never come.
        if parent_now.cast_unsigned() != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(in_child);
    }
}

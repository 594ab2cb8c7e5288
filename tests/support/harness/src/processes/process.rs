//! One process. It cannot outlive the test, it can be observed and signalled, and its log can be read afterwards.

use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::faults::fake_clock;
use crate::wait::eventually;

/// Environment variable that marks every process of one owner, and all processes that those start. A worker passes on, and
/// does not hide, variables of this prefix.
pub const MARKER_ENV: &str = "LC_TRIARCH_TEST_MARK";
/// Number of bytes of the end of a log that are printed after a failure.
const LOG_LINES_SHOWN: usize = 40;

/// A started process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    /// Name for messages.
    pub name: String,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
    stopped: bool,
}

impl Process {
    /// Starts the process. Both of its outputs are appended to `log`.
    pub fn spawn(name: impl Into<String>, mut command: Command, log: &Path) -> Self {
        let name = name.into();
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(log);
            file.unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()))
        };
        command.stdin(Stdio::null()).stdout(open()).stderr(open());
        die_with_parent(&mut command);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self {
            name,
            log: log.to_owned(),
            child,
            ended: None,
            stopped: false,
        }
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            let ended = self.child.try_wait().expect("a child can be waited for");
            ended.into_iter().for_each(|status| self.has_ended(status));
        }
        self.ended
    }

    /// Returns the state of the process in the kernel: `R` runs, `S` sleeps, `T` is stopped, `Z` has ended; `None` if
    /// it is gone.
    pub fn kernel_state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        // The name before the state may contain anything, parentheses included.
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Returns whether the process runs and is not stopped.
    pub fn is_running(&mut self) -> bool {
        !self.stopped && self.ended().is_none()
    }

    /// Waits until the process has ended by itself.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} (pid {}) ends", self.name, self.pid());
        eventually(deadline, what, async || self.ended()).await
    }

    /// Sends SIGKILL, and waits until the process is gone.
    pub fn kill9(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
            let status = self.child.wait().expect("a child can be waited for");
            self.has_ended(status);
        }
    }

    fn has_ended(&mut self, status: ExitStatus) {
        self.ended = Some(status);
        fake_clock::clear(self.pid());
    }

    /// Sends SIGTERM.
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&mut self) {
        self.signal(Signal::SIGINT);
    }

    /// Sends SIGSTOP. Returns once every thread has stopped. On a busy machine the other threads run on until the
    /// thread that received the signal is scheduled, and they could acknowledge another write in that time.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGSTOP);
        self.stopped = true;
        if self.ended().is_none() {
            // The kernel reports a stop to the parent when the last thread has stopped. An end is left for `ended`.
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            let child = Pid::from_raw(self.child.id().cast_signed());
            waitid(Id::Pid(child), flags).expect("a child can be waited for");
        }
    }

    /// Sends SIGCONT.
    pub fn cont(&mut self) {
        self.signal(Signal::SIGCONT);
        self.stopped = false;
    }

    /// Sends this signal.
    pub fn signal(&mut self, signal: Signal) {
        // Only a child that was not waited for yet, because its pid cannot belong to another process.
        if self.ended().is_none() {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    /// Returns all of the log.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the end of the log, for messages.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let first = lines.len().saturating_sub(LOG_LINES_SHOWN);
        let state = self.ended.map_or("running".to_owned(), describe_exit);
        format!(
            "--- {} (pid {}, {state}), the end of {}:\n{}",
            self.name,
            self.pid(),
            self.log.display(),
            lines[first..].join("\n")
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Returns a text such as `exit code 1` or `killed by signal 9`.
pub fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Makes the kernel kill the child when the thread that starts it ends for any reason.
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let in_child = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the signal was set. Then the signal never arrives.
        if nix::unistd::getppid().as_raw().cast_unsigned() != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Makes the child run in this network namespace: a file that `ip netns add` has created. Requires root.
pub fn enter_namespace(command: &mut Command, namespace: &Path) {
    let opened = std::fs::File::open(namespace);
    let file =
        opened.unwrap_or_else(|error| panic!("cannot open {}: {error}", namespace.display()));
    let in_child = move || {
        Ok(nix::sched::setns(
            &file,
            nix::sched::CloneFlags::CLONE_NEWNET,
        )?)
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Returns the pids of all living processes that carry this mark, without this process.
pub fn marked(mark: &str) -> Vec<u32> {
    let wanted = format!("{MARKER_ENV}={mark}");
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // The environment of a process is not readable if the process is gone, a zombie, or of another user.
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        if pid != own
            && environment
                .split(|byte| *byte == 0)
                .any(|pair| pair == wanted.as_bytes())
        {
            found.push(pid);
        }
    }
    found
}

/// Kills all processes that still carry this mark.
pub fn kill_marked(mark: &str) {
    for pid in marked(mark) {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
}

//! Process group of one command: started, waited for, signalled and cleaned up.
//!
//! # Invariants
//!
//! - The group is signalled only while its leader is unreaped, so its number cannot belong to another group by then.
//! - However an attempt ends, dropping its [`Group`] included, no process of the group keeps running and no zombie
//!   stays.
//! - The group dies with the worker, even when the worker is killed with SIGKILL: see [`OrphanReaper`].
//!
//! Commands are started by a thread of their own, one after the other, because starting one blocks until the new
//! program is in place. No code runs in the child between fork and exec, so that the standard library may use
//! `posix_spawn`. That call does not copy the worker's memory map and is several times faster. Control groups and another
//! user need such code, and the slower way with it.
//!
//! A process that left the group (`setsid`) is killed later, see [`child_reaper`](super::child_reaper).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::cgroup;
use super::child_reaper::{Children, RunningLease};
use super::file_limit::{FileLimit, is_want};
use super::orphan_reaper::OrphanReaper;
use super::run_as::RunAs;

/// Interval between two looks at a command whose end the kernel cannot announce, for want of descriptors.
const END_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum commands that wait to be started.
const STARTS_WAITING_MAX: usize = 64;

/// Starts commands on a thread of its own.
#[derive(Debug)]
pub struct Starter {
    requests: mpsc::Sender<Request>,
}

/// A command to start.
#[derive(Debug)]
pub struct Start {
    /// The program, its arguments and its environment.
    pub command: Command,
    /// Attempt that it belongs to.
    pub lease: RunningLease,
    /// Files by which it joins control groups.
    pub join: Vec<CString>,
    /// User that it runs as, if not the worker's.
    pub run_as: Option<Arc<RunAs>>,
    /// Working directory, which that user enters.
    pub cwd: Option<CString>,
}

#[derive(Debug)]
struct Request {
    start: Start,
    reply: oneshot::Sender<io::Result<Group>>,
}

impl Starter {
    /// Creates a starter with its thread and its orphan reaper, which end with it.
    pub fn new(children: Arc<Children>, files: Option<FileLimit>) -> io::Result<Self> {
        let reaper = Arc::new(OrphanReaper::start(children.clone())?);
        let (requests, mut waiting) = mpsc::channel::<Request>(STARTS_WAITING_MAX);
        std::thread::Builder::new()
            .name("exec-start".to_owned())
            .spawn(move || {
                while let Some(Request { start, reply }) = waiting.blocking_recv() {
                    let started = Group::start(start, &children, reaper.clone(), files);
                    // If nobody waits for it any more, the group is returned here and cleaned up by its drop.
                    let _ = reply.send(started);
                }
            })?;
        Ok(Self { requests })
    }

    /// Starts a command as the leader of a new group.
    pub async fn start(&self, start: Start) -> io::Result<Group> {
        let (reply, started) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts commands is gone");
        let request = Request { start, reply };
        self.requests.send(request).await.map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

/// Running command with all the processes it started that did not leave its group.
#[derive(Debug)]
pub struct Group {
    /// `None` once the command is being reaped.
    child: Option<Child>,
    id: Pid,
    reaper: Arc<OrphanReaper>,
    children: Arc<Children>,
    /// Ends after the group.
    _lease: RunningLease,
}

impl Group {
    fn start(
        start: Start,
        children: &Arc<Children>,
        reaper: Arc<OrphanReaper>,
        files: Option<FileLimit>,
    ) -> io::Result<Self> {
        let Start {
            mut command,
            lease,
            join,
            run_as,
            cwd,
        } = start;
        command.process_group(0);
        let files = files.filter(FileLimit::is_raised);
        if !join.is_empty() || run_as.is_some() || files.is_some() {
            // SAFETY: only async-signal-safe calls, on memory that was allocated before.
            unsafe {
                command.pre_exec(move || {
                    cgroup::join(&join)?;
                    // The error pipe and the pipes of the command are open already, whatever their numbers are.
                    if let Some(files) = &files {
                        files.restore()?;
                    }
                    let Some(run_as) = &run_as else {
                        return Ok(());
                    };
                    run_as.apply(cwd.as_deref())
                });
            }
        }
        let child = children.start(|| {
            // A command inherits the mask of this thread.
            let mask = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
            let child = command.spawn();
            mask.thread_set_mask()?;
            let child = child?;
            let id = i32::try_from(child.id()).map_err(io::Error::other)?;
            Ok((id, child))
        })?;
        let id = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        reaper.track(id);
        Ok(Self {
            child: Some(child),
            id,
            reaper,
            children: children.clone(),
            _lease: lease,
        })
    }

    /// Takes the pipe to its standard input.
    pub fn stdin(&mut self) -> io::Result<Option<pipe::Sender>> {
        let taken = self.child.as_mut().and_then(|child| child.stdin.take());
        taken
            .map(|end| pipe::Sender::from_owned_fd(end.into()))
            .transpose()
    }

    /// Takes the pipe from its standard output.
    pub fn stdout(&mut self) -> io::Result<Option<pipe::Receiver>> {
        let taken = self.child.as_mut().and_then(|child| child.stdout.take());
        taken
            .map(|end| pipe::Receiver::from_owned_fd(end.into()))
            .transpose()
    }

    /// Takes the pipe from its standard error.
    pub fn stderr(&mut self) -> io::Result<Option<pipe::Receiver>> {
        let taken = self.child.as_mut().and_then(|child| child.stderr.take());
        taken
            .map(|end| pipe::Receiver::from_owned_fd(end.into()))
            .transpose()
    }

    /// Waits until the leader has ended, without reaping it.
    pub async fn ended(&self) -> io::Result<()> {
        let id = self.id;
        match pidfd(id) {
            Ok(pidfd) => {
                // SAFETY: an owned descriptor is open, and the same, until it is dropped with the AsyncFd.
                let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
                    .map_err(io::Error::from)?;
                loop {
                    let mut ready = pidfd.readable().await?;
                    // A kill follows, so a wake-up alone is not proof enough that the leader has ended.
                    if has_ended(id, libc::WNOHANG)? {
                        return Ok(());
                    }
                    ready.clear_ready();
                }
            }
            Err(error) if is_want(&error) => {
                while !has_ended(id, libc::WNOHANG)? {
                    tokio::time::sleep(END_POLL_INTERVAL).await;
                }
                Ok(())
            }
            // Without pidfds in the kernel, a thread waits instead. If this future is cancelled, that thread ends with
            // the group.
            Err(_) => {
                let waited = tokio::task::spawn_blocking(move || has_ended(id, 0)).await;
                waited.map_err(io::Error::other)?.map(drop)
            }
        }
    }

    /// Signals all processes of the group.
    pub fn signal(&self, signal: Signal) {
        if self.child.is_some() {
            // The only possible failure is that no process is left to signal.
            let _ = killpg(self.id, signal);
        }
    }

    /// Kills the rest of the group once the leader has ended, and reaps the leader.
    pub fn finish(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGKILL);
        let Some(mut child) = self.child.take() else {
            return Err(io::Error::other("the command was reaped already"));
        };
        self.reaper.untrack(self.id);
        wait_for(&mut child, self.id, &self.children)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let Some(mut child) = self.child.take() else {
            return;
        };
        self.reaper.untrack(self.id);
        let (id, children) = (self.id, self.children.clone());
        if matches!(has_ended(id, libc::WNOHANG), Ok(true)) {
            let _ = wait_for(&mut child, id, &children);
            return;
        }
        // The command dies in a moment, but a drop must not wait for it.
        let waiter = std::thread::Builder::new().name("exec-reap".to_owned());
        if let Err(error) = waiter.spawn(move || wait_for(&mut child, id, &children)) {
            tracing::warn!(%error, "an ended command stays a zombie until the worker ends");
        }
    }
}

/// Waits until a child has ended, and reaps it.
fn wait_for(child: &mut Child, id: Pid, children: &Children) -> io::Result<ExitStatus> {
    has_ended(id, 0)?;
    children.reap_owned(id.as_raw(), || child.wait())
}

/// Returns whether a child has ended, without reaping it. Without `WNOHANG` in the options it waits until then.
fn has_ended(id: Pid, options: libc::c_int) -> io::Result<bool> {
    let pid = libc::id_t::try_from(id.as_raw()).map_err(io::Error::other)?;
    loop {
        // SAFETY: an all-zero `siginfo_t` is valid, and the call writes only that.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOWAIT | options;
            (libc::waitid(libc::P_PID, pid, &raw mut info, options), info)
        };
        match result {
            // SAFETY: the call has filled in the fields of a child, or left them zero if none has ended.
            0 => return Ok(unsafe { info.si_pid() } != 0),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn pidfd(id: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, id.as_raw(), libc::PIDFD_NONBLOCK) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(fd)
}

#[cfg(test)]
mod tests;

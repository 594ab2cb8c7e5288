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
//! `posix_spawn`. That call does not copy the worker's memory map and is several times faster.
//!
//! A process that left the group (`setsid`) is deliberately not covered.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use crate::worker::orphan_reaper::OrphanReaper;

/// Maximum commands that wait to be started.
const STARTS_WAITING_MAX: usize = 64;

/// Starts commands on a thread of its own.
#[derive(Debug)]
pub struct Starter {
    requests: mpsc::Sender<Start>,
}

#[derive(Debug)]
struct Start {
    command: Command,
    reply: oneshot::Sender<io::Result<Group>>,
}

impl Starter {
    /// Creates a starter with its thread and its orphan reaper, which end with it.
    pub fn new() -> io::Result<Self> {
        let reaper = Arc::new(OrphanReaper::start()?);
        let (requests, mut waiting) = mpsc::channel::<Start>(STARTS_WAITING_MAX);
        std::thread::Builder::new()
            .name("exec-start".to_owned())
            .spawn(move || {
                while let Some(Start { command, reply }) = waiting.blocking_recv() {
                    // If nobody waits for it any more, the group is returned here and cleaned up by its drop.
                    let _ = reply.send(Group::start(command, reaper.clone()));
                }
            })?;
        Ok(Self { requests })
    }

    /// Starts `command` as the leader of a new group.
    pub async fn start(&self, command: Command) -> io::Result<Group> {
        let (reply, started) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts commands is gone");
        let start = Start { command, reply };
        self.requests.send(start).await.map_err(|_| gone())?;
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
}

impl Group {
    fn start(mut command: Command, reaper: Arc<OrphanReaper>) -> io::Result<Self> {
        command.process_group(0);
        let child = command.spawn()?;
        let id =
            i32::try_from(child.id()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let id = Pid::from_raw(id);
        reaper.track(id);
        Ok(Self {
            child: Some(child),
            id,
            reaper,
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
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let id = self.id;
        match pidfd(id) {
            Ok(pidfd) => {
                // SAFETY: an owned descriptor is open, and the same, until it is dropped with the AsyncFd.
                let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
                    .map_err(io::Error::from)?;
                loop {
                    let mut ready = pidfd.readable().await?;
                    // A kill follows, so a wake-up alone is not proof enough that the leader has ended.
                    match waitid(Id::Pid(id), look | WaitPidFlag::WNOHANG)? {
                        WaitStatus::StillAlive => ready.clear_ready(),
                        _ => return Ok(()),
                    }
                }
            }
            // Without pidfds in the kernel, a thread waits instead. If this future is cancelled, that thread ends with
            // the group.
            Err(_) => {
                let wait = move || waitid(Id::Pid(id), look);
                let waited = tokio::task::spawn_blocking(wait)
                    .await
                    .map_err(io::Error::other)?;
                waited.map(drop).map_err(io::Error::from)
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
        child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let Some(mut child) = self.child.take() else {
            return;
        };
        self.reaper.untrack(self.id);
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        // The command dies in a moment, but a drop must not wait for it.
        let waiter = std::thread::Builder::new().name("exec-reap".to_owned());
        if let Err(error) = waiter.spawn(move || child.wait()) {
            tracing::warn!(%error, "an ended command stays a zombie until the worker ends");
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

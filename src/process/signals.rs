//! Signals of long-running processes: which ones stop a process, and which ones leave it alone.
//!
//! The default action of most signals is to end the process at once, without a hand-over and without a word. Log rotation,
//! reload scripts, timers and closed terminals send such signals, and none of them means that a process shall stop.
//!
//! # Invariants
//!
//! - SIGTERM and SIGINT are the only signals by which a user stops a process in order.
//! - Signals are handled rather than ignored where possible, because programs that a worker starts would inherit the latter.

use std::io;

use nix::sys::signal::{SigHandler, SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that have no effect: SIGUSR1 and SIGUSR2, and the signals of timers, descriptors and power supplies.
const WITHOUT_EFFECT: [Number; 8] = [
    Number::SIGUSR1,
    Number::SIGUSR2,
    Number::SIGALRM,
    Number::SIGVTALRM,
    Number::SIGPROF,
    Number::SIGIO,
    Number::SIGPWR,
    Number::SIGSTKFLT,
];

/// Listener for the signals of one process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Request that a signal makes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Stop; the signal has this name.
    Stop(&'static str),
    /// Reopen log files.
    Hangup,
}

impl Signals {
    /// Takes over the signals of this process. From then on, only SIGKILL, SIGQUIT and the signals of crashes, such as
    /// SIGSEGV, end it at once.
    pub fn listen() -> io::Result<Self> {
        for number in WITHOUT_EFFECT {
            // The handler stays when the listener is dropped.
            drop(signal(SignalKind::from_raw(number as i32))?);
        }
        ignore(Number::SIGTTOU)?;
        Self::of_user()
    }

    /// Takes over the signals of a process that starts commands, after [`neutralize_inherited`].
    pub fn listen_beside_commands() -> io::Result<Self> {
        for number in WITHOUT_EFFECT {
            drop(signal(SignalKind::from_raw(number as i32))?);
        }
        Self::of_user()
    }

    fn of_user() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next request.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Request::Stop("SIGINT"),
            _ = self.hangup.recv() => Request::Hangup,
        }
    }

    /// Waits until the process shall stop, and returns the name of the signal. A hangup is logged and has no other effect.
    pub async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Request::Stop(name) => return name,
                Request::Hangup => log_hangup(),
            }
        }
    }
}

/// Handles, without effect, the signals that this process was started to ignore. The commands that it starts have the
/// default actions then: a program inherits what is ignored, and not what is handled. Blocks the signal of a terminal to a
/// background process, and no other.
///
/// To be called before there are other threads.
pub fn neutralize_inherited() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // Rust ignores SIGPIPE, and resets it for commands. SIGTTOU is blocked below, except while a command is started.
        if (is_ignored(number) && number != libc::SIGPIPE) || number == libc::SIGTTOU {
            handle_without_effect(number)?;
        }
    }
    let mut blocked = SigSet::empty();
    blocked.add(Number::SIGTTOU);
    blocked.thread_set_mask()?;
    Ok(())
}

fn is_ignored(number: libc::c_int) -> bool {
    // SAFETY: the structure is valid when zeroed, and outlives the call, which writes only that.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        let read = libc::sigaction(number, std::ptr::null(), &raw mut current);
        read == 0 && current.sa_sigaction == libc::SIG_IGN
    }
}

fn handle_without_effect(number: libc::c_int) -> io::Result<()> {
    // SAFETY: the structure is valid when zeroed, and outlives the call. The handler does nothing.
    unsafe {
        let mut handled: libc::sigaction = std::mem::zeroed();
        handled.sa_sigaction = nothing as *const () as libc::sighandler_t;
        handled.sa_flags = libc::SA_RESTART;
        match libc::sigaction(number, &raw const handled, std::ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Logs a hangup. There are no log files to reopen.
pub fn log_hangup() {
    tracing::info!(
        "SIGHUP has no effect: the log goes to standard error, so there is no log file to reopen; SIGTERM stops this process"
    );
}

/// Makes writes beyond the size limit of files an error of the write. By default they end the process. For processes that
/// start no others.
pub fn refuse_oversized_writes() -> io::Result<()> {
    ignore(Number::SIGXFSZ)
}

/// Ignores a signal, in programs that this process starts too. Only for signals that a handler cannot neutralize: writes to a
/// terminal in the background (SIGTTOU) would be retried for ever.
fn ignore(number: Number) -> io::Result<()> {
    // SAFETY: the action is a constant, not a function that could be interrupted.
    unsafe { nix::sys::signal::signal(number, SigHandler::SigIgn) }?;
    Ok(())
}

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

use nix::sys::signal::{SigHandler, Signal as Number};
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

//! Limit on open files: raised for a worker that needs more, and as it was for its commands.
//!
//! Each attempt takes descriptors of the worker. A worker with more slots than its limit allows could not start some of
//! its tasks.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that a running attempt takes: its three pipes, and one to learn of its end.
const FILES_PER_ATTEMPT: u64 = 4;
/// Descriptors for all else: connections to masters, the runtime, and a command that is being started.
const FILES_RESERVED: u64 = 64;

/// The limit on open files of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimit {
    /// Soft limit of this process.
    pub own: u64,
    /// Soft limit that this process was started with; `None` if it was not raised. Commands get it, because some programs
    /// do not work with a high one.
    pub of_commands: Option<u64>,
    hard: u64,
}

impl FileLimit {
    /// Raises the soft limit as far as this number of slots needs, and as the hard limit allows.
    pub fn raise_for(slots: u32) -> io::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let raised = needed(slots).min(hard);
        // A command that is started with the limit as it is needs no step of its own for it, and starts faster.
        let is_raised = soft < raised && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok();
        Ok(Self {
            own: if is_raised { raised } else { soft },
            of_commands: is_raised.then_some(soft),
            hard,
        })
    }

    /// Returns the number of slots, of those wanted, for which there are descriptors. Logs if that is fewer.
    pub fn slots(&self, wanted: u32) -> u32 {
        let fitting = self.own.saturating_sub(FILES_RESERVED) / FILES_PER_ATTEMPT;
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX).max(1);
        if wanted > fitting {
            let needed = needed(wanted);
            tracing::warn!(
                wanted,
                fitting,
                "this process may open {} files, which is enough for {fitting} slots: it takes {fitting} tasks at once; \
                 {wanted} slots need {needed} files (ulimit -Hn, LimitNOFILE= of its systemd unit)",
                self.own
            );
        }
        wanted.min(fitting)
    }

    /// Returns whether commands need [`FileLimit::restore`].
    pub fn is_raised(&self) -> bool {
        self.of_commands.is_some()
    }

    /// Gives this process, which is about to run a command, the limit that the worker was started with. Safe after a fork.
    pub fn restore(&self) -> io::Result<()> {
        match self.of_commands {
            Some(soft) => Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, self.hard)?),
            None => Ok(()),
        }
    }
}

/// Returns the number of descriptors that a worker with this number of slots needs.
fn needed(slots: u32) -> u64 {
    u64::from(slots) * FILES_PER_ATTEMPT + FILES_RESERVED
}

/// Returns whether an error shows a want of this machine that may pass: of descriptors, processes, memory or disk space.
pub fn is_want(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::EAGAIN
                | libc::ENOMEM
                | libc::ENOSPC
                | libc::EDQUOT
                | libc::ENOBUFS
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_slots_than_descriptors_are_taken() {
        let limit = |own| FileLimit {
            own,
            of_commands: None,
            hard: own,
        };
        assert_eq!(limit(1_024).slots(400), 240);
        assert_eq!(limit(1_024).slots(8), 8);
        assert_eq!(limit(20_000).slots(400), 400);
        assert_eq!(limit(16).slots(8), 1, "one is always tried");
        assert_eq!(limit(u64::MAX).slots(10_000), 10_000);
    }

    #[test]
    fn a_want_is_told_from_a_mistake() {
        let of = |code| is_want(&io::Error::from_raw_os_error(code));
        for want in [
            libc::EMFILE,
            libc::ENFILE,
            libc::EAGAIN,
            libc::ENOMEM,
            libc::ENOSPC,
        ] {
            assert!(of(want), "{want}");
        }
        for mistake in [libc::ENOENT, libc::EACCES, libc::E2BIG, libc::ENOEXEC] {
            assert!(!of(mistake), "{mistake}");
        }
    }
}

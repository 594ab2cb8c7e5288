//! Scheduling priority of background threads.

/// Lowers the priority (raises the niceness) of the calling thread below all others of this process and of the machine.
/// The change is permanent, so only dedicated threads call this.
pub fn lower_thread_priority() {
    /// Not the very lowest: work that never runs would be as bad as work that delays others.
    const NICE: libc::c_int = 10;
    // SAFETY: the call takes no pointers. On Linux it sets the priority of one thread.
    let refused =
        unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned(), NICE) } != 0;
    if refused {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "the priority of this thread cannot be lowered");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_calling_thread_is_lowered_in_priority() {
        // SAFETY: as above.
        let nice =
            || unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned()) };
        let before = nice();
        let there = std::thread::spawn(move || {
            super::lower_thread_priority();
            nice()
        });
        assert_eq!(there.join().unwrap(), 10.max(before));
        assert_eq!(nice(), before);
    }
}

//! Work that must not be in the way of anything else.

/// Makes the calling thread give way to all others of this process, and of the machine: it runs on what processor time
/// nobody else wants, or a small share of it. For good; so only on a thread of one's own.
pub fn give_way() {
    /// Lowest but a few: work that is never done would be as bad as work that is in the way.
    const NICE: libc::c_int = 10;
    // SAFETY: the call takes no pointers. On Linux it sets the priority of one thread.
    let refused =
        unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned(), NICE) } != 0;
    if refused {
        let error = std::io::Error::last_os_error();
        tracing::debug!(%error, "this thread cannot be made to give way");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_calling_thread_gives_way() {
        // SAFETY: as above.
        let nice =
            || unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned()) };
        let before = nice();
        let there = std::thread::spawn(move || {
            super::give_way();
            nice()
        });
        assert_eq!(there.join().unwrap(), 10.max(before));
        assert_eq!(nice(), before);
    }
}

//! Containment of sled's panics: decides whether a panic is caught and becomes an error, so that the process continues.
//!
//! sled panics on files that are damaged in some ways. Those panics are caught where sled is called. After any other
//! panic, a part of the process is dead while the rest looks alive. The program therefore installs a panic hook that
//! ends the process, and the hook calls [`is_contained`] first.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Prefix of the names of sled's own threads.
const SLED_THREAD_PREFIX: &str = "sled-io-";

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}
/// Databases that are being opened or closed now.
static OPENING: AtomicUsize = AtomicUsize::new(0);

/// Returns whether this crate catches a panic of the current thread and reports it as an error.
pub fn is_contained() -> bool {
    if DEPTH.with(Cell::get) > 0 {
        return true;
    }
    // While a damaged file is read for the first time, sled's threads may panic as well; opening it then fails.
    OPENING.load(Ordering::Acquire) > 0
        && std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with(SLED_THREAD_PREFIX))
}

/// Runs `work` and returns its panic, if it panics.
pub(crate) fn contain<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let _contained = Contained::enter();
    catch_unwind(AssertUnwindSafe(work))
}

/// As [`contain`], for opening and closing a database.
pub(crate) fn contain_with_sled_threads<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let _opening = Opening::enter();
    contain(work)
}

struct Contained;

impl Contained {
    fn enter() -> Self {
        DEPTH.with(|depth| depth.set(depth.get() + 1));
        Contained
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

struct Opening;

impl Opening {
    fn enter() -> Self {
        OPENING.fetch_add(1, Ordering::AcqRel);
        Opening
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        OPENING.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::{contain, is_contained};

    #[test]
    fn a_panic_is_contained_inside_and_not_after() {
        assert!(!is_contained());
        let inside = contain(|| {
            let nested = contain(is_contained).unwrap_or(false);
            (nested, is_contained())
        });
        assert!(matches!(inside, Ok((true, true))));
        assert!(contain(|| panic!("contained")).is_err());
        assert!(!is_contained());
    }
}

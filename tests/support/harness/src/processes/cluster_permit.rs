//! Bound on the clusters that run at once in one test process.
//!
//! # Invariants
//!
//! - At most [`CONCURRENT_TESTS`] tests have clusters. More would only compete for the processor.
//! - A test that has a cluster never waits for another one: two tests that each wait for the other's permit would wait for
//!   ever. All clusters that were started from one thread therefore share a permit. Each test has a thread of its own.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::ThreadId;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Number of tests that may have clusters at once.
const CONCURRENT_TESTS: usize = 2;

static PERMITS: Semaphore = Semaphore::const_new(CONCURRENT_TESTS);
/// The permit of each thread that has clusters, and how many share it.
static SHARED: LazyLock<Mutex<HashMap<ThreadId, (SemaphorePermit<'static>, usize)>>> =
    LazyLock::new(Mutex::default);

/// Permission to run one cluster. Dropping it returns the permission.
#[derive(Debug)]
pub struct ClusterPermit {
    thread: ThreadId,
}

impl ClusterPermit {
    /// Waits for a permit, unless this thread has one.
    pub async fn acquire() -> Self {
        let thread = std::thread::current().id();
        if !join(thread, None) {
            let permit = PERMITS.acquire().await.expect("never closed");
            join(thread, Some(permit));
        }
        Self { thread }
    }
}

/// Counts one more cluster of the thread. Returns whether the thread has a permit now.
fn join(thread: ThreadId, permit: Option<SemaphorePermit<'static>>) -> bool {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    match (shared.get_mut(&thread), permit) {
        (Some((_, clusters)), _) => *clusters += 1,
        (None, Some(permit)) => {
            shared.insert(thread, (permit, 1));
        }
        (None, None) => return false,
    }
    true
}

impl Drop for ClusterPermit {
    fn drop(&mut self) {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, clusters)) = shared.get_mut(&self.thread) {
            *clusters -= 1;
            if *clusters == 0 {
                shared.remove(&self.thread);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_test_with_a_cluster_gets_another_while_all_permits_are_taken() {
        let held: Vec<_> = (1..CONCURRENT_TESTS)
            .map(|_| PERMITS.try_acquire().expect("free"))
            .collect();
        let first = ClusterPermit::acquire().await;
        assert_eq!(PERMITS.available_permits(), 0);
        let second = ClusterPermit::acquire().await;
        drop(first);
        assert_eq!(PERMITS.available_permits(), 0, "the second still runs");
        drop(second);
        drop(held);
        assert_eq!(PERMITS.available_permits(), CONCURRENT_TESTS);
    }
}

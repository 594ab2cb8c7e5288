//! The request that a worker shuts down.

use tokio_util::sync::CancellationToken;

/// Asks a worker to leave, in two steps: first it finishes what it runs, then it stops it. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    finish: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// Creates one that has not been requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the worker to take nothing more, finish what runs within the grace period, return the rest, and leave.
    pub fn finish(&self) {
        self.finish.cancel();
    }

    /// Asks the worker to stop what runs and return it at once.
    pub fn now(&self) {
        self.finish.cancel();
        self.now.cancel();
    }

    /// Waits until the worker is asked to leave, in either way.
    pub async fn asked(&self) {
        self.finish.cancelled().await;
    }

    /// Waits until the worker is asked to leave at once.
    pub async fn asked_now(&self) {
        self.now.cancelled().await;
    }

    /// Returns whether the worker is asked to leave, in either way.
    pub fn is_asked(&self) -> bool {
        self.finish.is_cancelled()
    }
}

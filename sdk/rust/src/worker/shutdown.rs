//! How a worker is asked to go.

use tokio_util::sync::CancellationToken;

/// Asks a worker to go, in two steps: first it finishes what it runs, then it drops it. Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    finish: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes no more, finishes what runs within the grace period, hands the rest back, leaves.
    pub fn finish(&self) {
        self.finish.cancel();
    }

    /// Ends what runs and hands it back at once.
    pub fn now(&self) {
        self.finish.cancel();
        self.now.cancel();
    }

    /// Waits until the worker is asked to go at all.
    pub async fn asked(&self) {
        self.finish.cancelled().await;
    }

    /// Waits until the worker is asked to go at once.
    pub async fn asked_now(&self) {
        self.now.cancelled().await;
    }

    /// Whether the worker is asked to go at all.
    pub fn is_asked(&self) -> bool {
        self.finish.is_cancelled()
    }
}

//! Low-priority threads for long work: snapshots, backups, digests.

use std::io;

use tokio::sync::oneshot;

/// Runs `work` on a thread of its own with low priority, and returns its result.
///
/// # Errors
///
/// Fails if the thread cannot be started, or panics.
pub async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            triarch_storage::low_priority::lower_thread_priority();
            // The caller may have gone away.
            let _ = done.send(work());
        })?;
    outcome
        .await
        .map_err(|_| io::Error::other("the work panicked"))
}

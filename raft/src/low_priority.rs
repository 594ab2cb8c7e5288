//! Low-priority threads for long work: snapshots, backups, digests.

use std::io;

use tokio::sync::oneshot;

/// Does `work` on a thread of its own that gives way to all others, and gives what comes of it. An error if the thread
/// cannot be made, or panics.
pub async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            triarch_storage::low_priority::lower_thread_priority();
            // Whoever asked may have gone.
            let _ = done.send(work());
        })?;
    outcome
        .await
        .map_err(|_| io::Error::other("the work panicked"))
}

//! What a leader adds to an entry at the moment it is written: a decision that follows from what the entry holds, and would
//! otherwise need an entry of its own, a whole commit later.
//!
//! A rider is the last command of its entry. It stands under the term that the entry is fenced with, and its outcome is
//! that of the entry.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::ProposeError;
use crate::proposals::committed::Committed;

/// A command that rides along, and where to tell what became of it.
pub struct Rider<R> {
    /// The command.
    pub command: Bytes,
    /// Told what a proposal of its own would be told.
    pub outcome: oneshot::Sender<Result<Committed<R>, ProposeError>>,
}

/// Gives the rider of an entry that is about to be written in this term, if there is to be one. Called on the runtime of
/// consensus: it must not wait.
pub type Dispatcher<R> = Box<dyn Fn(u64) -> Option<Rider<R>> + Send + Sync>;

/// Where the dispatcher is found, once there is one.
pub(crate) struct Riders<R>(OnceLock<Dispatcher<R>>);

impl<R> Default for Riders<R> {
    fn default() -> Self {
        Riders(OnceLock::new())
    }
}

impl<R> fmt::Debug for Riders<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Riders").finish_non_exhaustive()
    }
}

impl<R> Riders<R> {
    /// Only the first counts.
    pub fn dispatched_by(&self, dispatcher: Dispatcher<R>) {
        let _ = self.0.set(dispatcher);
    }

    pub fn of_entry(&self, term: u64) -> Option<Rider<R>> {
        self.0.get().and_then(|dispatcher| dispatcher(term))
    }
}

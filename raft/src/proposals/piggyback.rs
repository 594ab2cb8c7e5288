//! Piggybacked commands: what a leader adds to an entry at the moment it is written.
//!
//! A decision that follows from what the entry holds would otherwise need an entry of its own, a whole commit later. The
//! piggybacked command is the last one of its entry. It stands under the term that the entry is fenced with, and its outcome
//! is that of the entry.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::ProposeError;
use crate::proposals::committed::Committed;

/// A command to piggyback on an entry, and the channel for its outcome.
pub struct PiggybackedCommand<R> {
    /// The command.
    pub command: Bytes,
    /// Gets the outcome that a proposal of its own would have.
    pub outcome: oneshot::Sender<Result<Committed<R>, ProposeError>>,
}

/// Returns the command to piggyback on an entry that is about to be written in this term, if any. Called on the runtime of
/// consensus: it must not wait.
pub type PiggybackDispatcher<R> = Box<dyn Fn(u64) -> Option<PiggybackedCommand<R>> + Send + Sync>;

/// Where the dispatcher is found, once there is one.
pub(crate) struct PiggybackSource<R>(OnceLock<PiggybackDispatcher<R>>);

impl<R> Default for PiggybackSource<R> {
    fn default() -> Self {
        PiggybackSource(OnceLock::new())
    }
}

impl<R> fmt::Debug for PiggybackSource<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PiggybackSource").finish_non_exhaustive()
    }
}

impl<R> PiggybackSource<R> {
    /// Only the first counts.
    pub fn set(&self, dispatcher: PiggybackDispatcher<R>) {
        let _ = self.0.set(dispatcher);
    }

    pub fn for_entry(&self, term: u64) -> Option<PiggybackedCommand<R>> {
        self.0.get().and_then(|dispatcher| dispatcher(term))
    }
}

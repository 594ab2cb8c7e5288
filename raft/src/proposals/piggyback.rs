//! Piggybacked commands: commands that a leader adds to an entry at the moment it is written.
//!
//! A decision that follows from the entry's content would otherwise need an entry of its own, a whole commit later. The
//! piggybacked command is the last one of its entry. It is under the term that the entry is fenced with, and its
//! outcome is the entry's.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::ProposeError;
use crate::proposals::committed::Committed;

/// Command to piggyback on an entry, and the channel for its outcome.
pub struct PiggybackedCommand<R> {
    /// The command.
    pub command: Bytes,
    /// Receives the outcome that a separate proposal would have.
    pub outcome: oneshot::Sender<Result<Committed<R>, ProposeError>>,
}

/// Returns the command to piggyback on an entry that is about to be written in this term, if any. Called on the runtime
/// of consensus, so it must not block.
pub type PiggybackDispatcher<R> = Box<dyn Fn(u64) -> Option<PiggybackedCommand<R>> + Send + Sync>;

/// Holder of the dispatcher, once there is one.
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
    /// Sets the dispatcher. Only the first call has an effect.
    pub fn set(&self, dispatcher: PiggybackDispatcher<R>) {
        let _ = self.0.set(dispatcher);
    }

    pub fn for_entry(&self, term: u64) -> Option<PiggybackedCommand<R>> {
        self.0.get().and_then(|dispatcher| dispatcher(term))
    }
}

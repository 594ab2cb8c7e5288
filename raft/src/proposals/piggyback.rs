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
pub struct PiggybackedCommand<R> {
    /// The command.
    pub command: Bytes,
    /// Told what a proposal of its own would be told.
    pub outcome: oneshot::Sender<Result<Committed<R>, ProposeError>>,
}

/// Gives the rider of an entry that is about to be written in this term, if there is to be one. Called on the runtime of
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

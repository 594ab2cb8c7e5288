//! Fatal error signal: a one-way flag set when the disk failed or an entry cannot be applied.
//!
//! The first reason stays. The owner of the process watches the signal and exits; nothing in this crate retries.

use std::sync::Arc;

use tokio::sync::watch;

/// Handle of the flag. Cheap to clone; all clones share one flag.
#[derive(Debug, Clone)]
pub(crate) struct FatalErrorSignal {
    reason: Arc<watch::Sender<Option<String>>>,
}

impl FatalErrorSignal {
    pub(crate) fn new() -> Self {
        FatalErrorSignal {
            reason: Arc::new(watch::Sender::new(None)),
        }
    }

    pub(crate) fn set(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.reason.send_if_modified(|current| {
            if current.is_some() {
                return false;
            }
            tracing::error!(%reason, "this node has failed and must stop");
            *current = Some(reason);
            true
        });
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.reason.subscribe()
    }
}

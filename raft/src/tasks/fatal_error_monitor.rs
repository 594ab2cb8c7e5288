//! Monitors of openraft and of the log: when one of them stops for good, so does the node.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use triarch_storage::LogStore;

use crate::apply::applier::Raft;
use crate::fatal::FatalErrorSignal;
use crate::state_machine::StateMachine;

/// Interval between two checks of the log.
const LOG_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Sets the fatal error when the log has failed. An idle log has no write that could report it.
pub(crate) async fn fail_with_log(log: Arc<dyn LogStore>, fatal_error: FatalErrorSignal) {
    loop {
        if let Some(error) = log.failure() {
            return fatal_error.set(error.to_string());
        }
        tokio::time::sleep(LOG_CHECK_INTERVAL).await;
    }
}

/// Sets the fatal error when openraft has stopped on its own, after a storage error or a panic.
pub(crate) async fn fail_with_raft<S: StateMachine>(raft: Raft<S>, fatal_error: FatalErrorSignal) {
    let mut metrics = raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        match state {
            Ok(()) => {}
            Err(openraft::error::Fatal::Stopped) => return,
            Err(e) => return fatal_error.set(e.to_string()),
        }
        if metrics.changed().await.is_err() && metrics.borrow_watched().running_state.is_ok() {
            return fatal_error.set("consensus ended without an error; it must have panicked");
        }
    }
}

//! Monitor of openraft's own state: when it stops for good, so does the node.

use openraft::async_runtime::watch::WatchReceiver;

use crate::apply::applier::Raft;
use crate::fatal::FatalErrorSignal;
use crate::state_machine::StateMachine;

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

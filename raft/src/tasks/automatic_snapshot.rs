//! Automatic snapshots: each is begun when the applied log makes one due.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::apply::applier::Raft;
use crate::state_machine::StateMachine;

/// Triggers a snapshot whenever one is due.
pub(crate) async fn snapshot_when_due<S: StateMachine>(raft: Raft<S>, due: Arc<Notify>) {
    loop {
        due.notified().await;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

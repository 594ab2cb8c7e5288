//! Membership reconciler: the leader finishes membership changes that were begun.
//!
//! A learner is a node that is joining. Its membership as a learner is the only record of the intent to make it a
//! voter. The intent therefore outlives the client that requested the change and the leader that received the request:
//! each leader promotes each learner once it has caught up. A leader may also die between the two steps of a change
//! (both majorities needed, then the new one alone). The next leader then completes the change.
//!
//! The reconciler never abandons a change: a learner that is gone for good stays a learner until it is removed.

use std::time::Duration;

use crate::leadership::role::RaftRole;
use crate::membership::changes::{MembershipChanger, log_unfinished};
use crate::state_machine::StateMachine;

pub(crate) struct MembershipReconciler<S: StateMachine> {
    pub changer: MembershipChanger<S>,
    /// Interval between two checks.
    pub interval: Duration,
}

impl<S: StateMachine> MembershipReconciler<S> {
    pub(crate) async fn run(self) {
        let mut role = self.changer.role.clone();
        loop {
            let leading = role.wait_for(|role| matches!(role, RaftRole::Leading { .. }));
            if leading.await.is_err() {
                return;
            }
            if let Err(error) = self.changer.reconcile().await {
                log_unfinished(&error, "a change of the members");
            }
            tokio::time::sleep(self.interval).await;
        }
    }
}

//! Level of a new cluster: the first leader raises it to the highest level that all founding members understand.
//!
//! Only a process that took part in the founding does so, and only for a while after it. A cluster that has been in use
//! rises on request alone, because until then its nodes can go back to the version that they came from.

use std::time::Duration;

use crate::leadership::role::RaftRole;
use crate::membership::changes::{MembershipChanger, RaiseTo, log_unfinished};
use crate::state_machine::StateMachine;

/// Time after the founding in which the level is raised, in leases.
const WINDOW_LEASES: u32 = 20;

pub(crate) struct FoundingLevel<S: StateMachine> {
    pub changer: MembershipChanger<S>,
    pub lease: Duration,
    /// Delay after a try that failed.
    pub retry_delay: Duration,
}

impl<S: StateMachine> FoundingLevel<S> {
    pub(crate) async fn run(self) {
        let levels = &self.changer.transport.levels;
        let mut role = self.changer.role.clone();
        loop {
            let leading = role.wait_for(|role| matches!(role, RaftRole::Leading { .. }));
            if leading.await.is_err() {
                return;
            }
            // The founding is recorded before the first election.
            if !levels.founded_within(self.lease * WINDOW_LEASES) {
                return;
            }
            match self.changer.raise_level(RaiseTo::HighestCommon).await {
                Ok(level) if level < levels.understood() => {
                    tracing::info!(
                        "the new cluster is at level {level}, because not all of its nodes understand level {}; once all run \
                         the same version, raise it with triarch cluster upgrade",
                        levels.understood()
                    );
                    return;
                }
                Ok(_) => return,
                Err(error) => log_unfinished(&error, "the raise of the new cluster's level"),
            }
            tokio::time::sleep(self.retry_delay).await;
        }
    }
}

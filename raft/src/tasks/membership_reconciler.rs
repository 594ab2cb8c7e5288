//! What a leader does about the membership by itself: it finishes what was begun.
//!
//! A learner is a node on its way in. That it is in the membership is all that is remembered of the wish to have it as a
//! voter, so the wish outlives the client that had it and the leader that heard it: whoever leads promotes each learner
//! once it has caught up. Likewise, a change whose leader died between its two steps (both majorities needed, then the new
//! one alone) is brought to its end by the next.
//!
//! Nothing is given up here: a learner that is gone for good stays one until it is removed.

use std::time::Duration;

use crate::error::ChangeError;
use crate::leadership::role::Standing;
use crate::membership::changes::Changer;
use crate::state_machine::StateMachine;

pub(crate) struct Finisher<S: StateMachine> {
    pub changer: Changer<S>,
    /// Between two looks.
    pub pause: Duration,
}

impl<S: StateMachine> Finisher<S> {
    pub(crate) async fn run(self) {
        let mut standing = self.changer.standing.clone();
        loop {
            let leading =
                standing.wait_for(|standing| matches!(standing, Standing::Leading { .. }));
            if leading.await.is_err() {
                return;
            }
            match self.changer.finish().await {
                Ok(()) | Err(ChangeError::NotLeader { .. }) => {}
                Err(
                    error @ (ChangeError::Refused(_)
                    | ChangeError::UnknownNode(_)
                    | ChangeError::Unknown(_)),
                ) => tracing::debug!(%error, "a change of the members is not finished yet"),
            }
            tokio::time::sleep(self.pause).await;
        }
    }
}

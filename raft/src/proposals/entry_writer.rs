//! Writer of one entry, from the batcher to its outcome.
//!
//! An entry is fenced with the term it is written in. Outcomes are exact: *not done* only when the entry was certainly
//! not appended; everything else is *unknown*.

use std::time::{Duration, Instant};

use openraft::error::{ClientWriteError, Fatal, ForwardReason};
use openraft::impls::ProgressResponder;
use tokio::sync::watch;

use crate::apply::applier::Raft;
use crate::error::ProposeError;
use crate::fatal::FatalErrorSignal;
use crate::leadership::role::RaftRole;
use crate::state_machine::StateMachine;
use crate::types::{Batch, Config};

/// Delay before another try of an entry that a leader without a fresh quorum refused.
const LEASE_RETRY_DELAY: Duration = Duration::from_millis(5);

/// Writes one entry and waits for its outcome.
pub(crate) struct EntryWriter<S: StateMachine> {
    pub raft: Raft<S>,
    pub role: watch::Receiver<RaftRole>,
    pub fatal_error: FatalErrorSignal,
    pub lease: Duration,
}

impl<S: StateMachine> Clone for EntryWriter<S> {
    fn clone(&self) -> Self {
        EntryWriter {
            raft: self.raft.clone(),
            role: self.role.clone(),
            fatal_error: self.fatal_error.clone(),
            lease: self.lease,
        }
    }
}

impl<S: StateMachine> EntryWriter<S> {
    /// Returns the term this node leads in. If it was elected a moment ago, waits for its first entry, which is on the
    /// way.
    pub(crate) async fn confirmed_term(&mut self, deadline: Instant) -> Result<u64, ProposeError> {
        let settled = self
            .role
            .wait_for(|role| !matches!(role, RaftRole::Elected { .. }));
        match tokio::time::timeout_at(deadline.into(), settled).await {
            Ok(Ok(role)) => match &*role {
                RaftRole::Leading { term, .. } => Ok(*term),
                other => Err(ProposeError::NotLeader {
                    leader: other.leader(),
                }),
            },
            Ok(Err(_)) => Err(ProposeError::ShuttingDown),
            Err(_) => Err(ProposeError::NotLeader { leader: None }),
        }
    }

    /// Appends the entry in `term` and waits until it is committed and applied. On an error, the variant states its
    /// outcome.
    pub(crate) async fn write(
        mut self,
        batch: Batch,
        term: u64,
        deadline: Instant,
    ) -> Result<(u64, Vec<S::Reply>), ProposeError> {
        loop {
            let (responder, response_rx) = ProgressResponder::complete_only();
            self.raft
                .write(batch.clone())
                .with_leader(term)
                .responder(responder)
                .await
                .map_err(|e| self.fatal(&e))?;
            let response = tokio::select! {
                response = response_rx => response,
                () = self.leadership_lost(term) => {
                    return Err(ProposeError::Unknown("leadership was lost while the entry was in flight".into()));
                }
            };
            let error = match response {
                Ok(Ok(response)) => {
                    let index = response.log_id.index;
                    return match response.data.take::<S::Reply>() {
                        Some(replies) => Ok((index, replies)),
                        None => Err(ProposeError::Unknown(format!(
                            "entry {index} was applied without replies"
                        ))),
                    };
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(match self.fatal_error.get() {
                        Some(reason) => ProposeError::StorageFailed(reason),
                        None => ProposeError::Unknown(
                            "the node stopped while the entry was in flight".into(),
                        ),
                    });
                }
            };
            match error {
                // The entry was refused before it was appended, because no quorum has answered this leader lately. A
                // leader that was just elected gets its first answer within a round trip. One that is cut off may never
                // get it.
                ClientWriteError::ForwardToLeader(f) if f.reason == ForwardReason::LeaseExpired => {
                    let leads = self.role.borrow().own_term() == Some(term);
                    if !leads || Instant::now() + LEASE_RETRY_DELAY >= deadline {
                        return Err(ProposeError::NotLeader {
                            leader: self.role.borrow().leader(),
                        });
                    }
                    tokio::time::sleep(LEASE_RETRY_DELAY).await;
                }
                ClientWriteError::ForwardToLeader(f) => {
                    let leader = match f.reason {
                        ForwardReason::NotLeader => {
                            f.leader_id.zip(f.leader_node.map(|member| member.addr))
                        }
                        // The target of a transfer does not lead yet.
                        ForwardReason::LeadershipTransfer | ForwardReason::LeaseExpired => None,
                    };
                    return Err(ProposeError::NotLeader { leader });
                }
                discarded @ ClientWriteError::LogEntryDiscarded(_) => {
                    return Err(ProposeError::Unknown(discarded.to_string()));
                }
                // Only membership changes and conditional writes meet these.
                other @ (ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)) => {
                    return Err(ProposeError::Unknown(other.to_string()));
                }
            }
        }
    }

    /// Completes when this node has not led in `term` for the length of a lease. By then openraft has reported what it
    /// knows.
    async fn leadership_lost(&mut self, term: u64) {
        let lost = self
            .role
            .wait_for(|role| role.own_term() != Some(term))
            .await
            .is_ok();
        if lost {
            tokio::time::sleep(self.lease).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Maps openraft's end to an error. openraft had not accepted the entry.
    fn fatal(&self, e: &Fatal<Config>) -> ProposeError {
        match (self.fatal_error.get(), e) {
            (Some(reason), _) => ProposeError::StorageFailed(reason),
            (None, Fatal::Stopped) => ProposeError::ShuttingDown,
            (None, Fatal::StorageError(_) | Fatal::Panicked) => {
                ProposeError::StorageFailed(e.to_string())
            }
        }
    }
}

//! Linearizable reads by ReadIndex: one round of confirmation serves all callers that wait.
//!
//! A round takes the commit index, then asks a quorum whether this node still leads. Once that index is applied here,
//! every read is at least as new as the moment its caller asked. Callers that arrive while a round is under way wait
//! for the next one, because the running round may have begun before they asked.

use std::time::{Duration, Instant};

use openraft::error::{Fatal, LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ReadPolicy};
use tokio::sync::{mpsc, oneshot, watch};

use crate::apply::applier::{Applied, Raft};
use crate::error::ReadError;
use crate::fatal::FatalErrorSignal;
use crate::leadership::role::RaftRole;
use crate::state_machine::StateMachine;
use crate::types::Config;

type ReadResult = Result<u64, ReadError>;

/// Maximum wait of a caller beyond the round's own limits, after which it considers the barrier stuck.
const REPLY_GRACE: Duration = Duration::from_millis(200);

/// Callers' side of the rounds.
pub(crate) struct ReadBarrier {
    queue: mpsc::Sender<oneshot::Sender<ReadResult>>,
    role: watch::Receiver<RaftRole>,
    timeout: Duration,
}

impl ReadBarrier {
    pub(crate) async fn wait(&self) -> ReadResult {
        {
            let role = self.role.borrow();
            if role.own_term().is_none() {
                return Err(ReadError::NotLeader {
                    leader: role.leader(),
                });
            }
        }
        let (tx, rx) = oneshot::channel();
        // A full queue is one round away from being empty, so the caller waits for a place in it, within the deadline.
        let confirmed = async {
            self.queue
                .send(tx)
                .await
                .map_err(|_| ReadError::ShuttingDown)?;
            rx.await.unwrap_or(Err(ReadError::ShuttingDown))
        };
        tokio::time::timeout(self.timeout + REPLY_GRACE, confirmed)
            .await
            .unwrap_or(Err(ReadError::NoQuorum))
    }
}

/// Task behind [`ReadBarrier`].
pub(crate) struct ReadIndexRounds<S: StateMachine> {
    queue: mpsc::Receiver<oneshot::Sender<ReadResult>>,
    raft: Raft<S>,
    applied: watch::Receiver<Applied>,
    role: watch::Receiver<RaftRole>,
    fatal_error: FatalErrorSignal,
    lease: Duration,
    timeout: Duration,
    queue_max: usize,
}

pub(crate) fn read_barrier<S: StateMachine>(
    raft: Raft<S>,
    applied: watch::Receiver<Applied>,
    role: watch::Receiver<RaftRole>,
    fatal_error: FatalErrorSignal,
    lease: Duration,
    timeout: Duration,
    queue_max: usize,
) -> (ReadBarrier, ReadIndexRounds<S>) {
    let (tx, rx) = mpsc::channel(queue_max);
    let read_barrier = ReadBarrier {
        queue: tx,
        role: role.clone(),
        timeout,
    };
    (
        read_barrier,
        ReadIndexRounds {
            queue: rx,
            raft,
            applied,
            role,
            fatal_error,
            lease,
            timeout,
            queue_max,
        },
    )
}

impl<S: StateMachine> ReadIndexRounds<S> {
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                count = self.queue.recv_many(&mut waiting, self.queue_max) => if count == 0 { return },
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            waiting.retain(|caller| !caller.is_closed());
            if waiting.is_empty() {
                continue;
            }
            let answer = tokio::select! {
                answer = self.round() => answer,
                _ = stopping.wait_for(|stopping| *stopping) => Err(ReadError::ShuttingDown),
            };
            for caller in waiting.drain(..) {
                // The caller may have gone away.
                let _ = caller.send(answer.clone());
            }
        }
    }

    async fn round(&mut self) -> ReadResult {
        if mutated!(LocalRead) {
            return Ok(self.applied.borrow().index);
        }
        let deadline = Instant::now() + self.timeout;
        let index = {
            // Waiting longer than a lease for one quorum is pointless: by then another leader may have been elected.
            let option = LinearizerOption::from(ReadPolicy::ReadIndex)
                .with_wait_timeout(self.lease.min(self.timeout));
            match self.raft.get_read_log_id(option).await {
                Ok((read, _)) => read.index(),
                Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                    return Err(ReadError::NoQuorum);
                }
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(f))) => {
                    let leader = f.leader_id.zip(f.leader_node.map(|member| member.addr));
                    let leader = leader.or_else(|| self.role.borrow().leader());
                    return Err(ReadError::NotLeader { leader });
                }
                Err(RaftError::Fatal(e)) => return Err(self.fatal(&e)),
            }
        };
        if mutated!(ReadBeforeApplied) {
            return Ok(index);
        }
        wait_applied(&mut self.applied, index, deadline).await
    }

    fn fatal(&self, e: &Fatal<Config>) -> ReadError {
        match (self.fatal_error.get(), e) {
            (Some(reason), _) => ReadError::StorageFailed(reason),
            (None, Fatal::Stopped) => ReadError::ShuttingDown,
            (None, Fatal::StorageError(_) | Fatal::Panicked) => {
                ReadError::StorageFailed(e.to_string())
            }
        }
    }
}

/// Waits until `index` is applied, and returns the index applied then.
pub(crate) async fn wait_applied(
    applied: &mut watch::Receiver<Applied>,
    index: u64,
    deadline: Instant,
) -> ReadResult {
    match tokio::time::timeout_at(
        deadline.into(),
        applied.wait_for(|applied| applied.index >= index),
    )
    .await
    {
        Ok(Ok(applied)) => Ok(applied.index),
        Ok(Err(_)) => Err(ReadError::ShuttingDown),
        Err(_) => Err(ReadError::NoQuorum),
    }
}

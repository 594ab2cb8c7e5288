//! Batching of proposals (group commit): writes the proposals of many callers as one log entry.
//!
//! One task takes waiting proposals from a bounded queue and sends them as one entry. While the maximum number of
//! entries is in flight, the queue fills and the next entry grows. Batches therefore form without a timer, and a single
//! proposal does not wait for others. Each entry is fenced with the term in which this node leads. An entry is
//! therefore never written under a leadership other than the one its proposals were accepted in.
//!
//! Leases depend on the leader's own decisions and on the workers' reports. These proposals have high priority: they
//! are taken from a queue of their own before all others, so that a flood of other proposals does not delay them. A
//! quarter of each entry is left to other proposals that wait.
//!
//! Outcomes are exact. A proposal is reported as not done only if its entry was certainly not appended. In every other
//! case without a reply the outcome is *unknown*.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::config::Limits;
use crate::error::ProposeError;
use crate::fatal::FatalErrorSignal;
use crate::leadership::role::RaftRole;
use crate::metrics::ConsensusMetrics;
use crate::proposals::committed::Committed;
use crate::proposals::entry_writer::EntryWriter;
use crate::proposals::options::{Priority, ProposeOptions};
use crate::proposals::piggyback::PiggybackSource;
use crate::protocol::entry_format::{COMMAND_OVERHEAD_BYTES, STAMP_MS_MAX, encode_commands};
use crate::state_machine::StateMachine;
use crate::storage::disk_space::ClusterDiskSpace;

/// Clock of the leader, in Unix ms.
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

type ProposeResult<R> = Result<Committed<R>, ProposeError>;

/// Maximum wait of a caller beyond its deadline for the exact answer that the batcher gives at the deadline.
const REPLY_GRACE: Duration = Duration::from_millis(200);

struct Proposal<R> {
    command: Bytes,
    options: ProposeOptions,
    enqueued_at: Instant,
    deadline: Instant,
    outcome: oneshot::Sender<ProposeResult<R>>,
    /// Permits for the bytes that the proposal takes in the queue.
    _bytes: OwnedSemaphorePermit,
}

impl<R> Proposal<R> {
    fn complete(self, outcome: ProposeResult<R>) {
        // The caller may have gone away.
        let _ = self.outcome.send(outcome);
    }
}

/// Part of an entry, in quarters, that proposals of high priority may fill while others wait.
const HIGH_PRIORITY_QUARTERS: usize = 3;

/// Check that every command passes before it enters the log. See [`StateMachine::check_command`].
type CommandCheck = fn(&[u8]) -> std::io::Result<()>;

/// Callers' side of the batcher.
pub(crate) struct Proposer<R> {
    check_command: CommandCheck,
    normal_priority: mpsc::Sender<Proposal<R>>,
    high_priority: mpsc::Sender<Proposal<R>>,
    bytes: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
    role: watch::Receiver<RaftRole>,
    fatal_error: FatalErrorSignal,
    disk_space: Arc<ClusterDiskSpace>,
    limits: Limits,
    metrics: Arc<ConsensusMetrics>,
}

impl<R: Send + 'static> Proposer<R> {
    pub(crate) async fn propose(
        &self,
        command: Bytes,
        options: ProposeOptions,
    ) -> ProposeResult<R> {
        let open = self.metrics.open_proposal();
        let outcome = self.enqueue(command, options).await;
        drop(open);
        if let Err(error) = &outcome {
            self.metrics.refused(error.into());
        }
        outcome
    }

    /// Waits until no entry that was stamped before this call is in flight: each is applied here, or can no longer be
    /// appended by this leader. Entries are stamped before they are appended, so two in flight may change places.
    pub(crate) async fn settle(&self) -> Result<(), ProposeError> {
        let all = u32::try_from(self.limits.entries_in_flight_max).unwrap_or(u32::MAX);
        let timeout = Duration::from_millis(self.limits.propose_timeout_ms);
        match tokio::time::timeout(timeout, self.in_flight.acquire_many(all)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ProposeError::ShuttingDown),
            Err(_) => Err(ProposeError::Overloaded),
        }
    }

    async fn enqueue(&self, command: Bytes, options: ProposeOptions) -> ProposeResult<R> {
        if let Some(reason) = self.fatal_error.get() {
            return Err(ProposeError::StorageFailed(reason));
        }
        if command.len() > self.limits.command_bytes_max {
            return Err(ProposeError::TooLarge {
                bytes: command.len(),
                bytes_max: self.limits.command_bytes_max,
            });
        }
        if let Err(e) = (self.check_command)(&command) {
            return Err(ProposeError::Malformed(e.to_string()));
        }
        {
            let role = self.role.borrow();
            match role.own_term() {
                Some(own)
                    if options.term.is_none_or(|term| term == own)
                        || mutated!(DecisionsNotFenced) => {}
                Some(_) | None => {
                    return Err(ProposeError::NotLeader {
                        leader: role.leader(),
                    });
                }
            }
        }
        if let Some(why) = self.disk_space.write_refusal(command.len()) {
            return Err(ProposeError::DiskLow(why));
        }
        let share = u32::try_from(command.len() + COMMAND_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let Ok(bytes) = Arc::clone(&self.bytes).try_acquire_many_owned(share) else {
            return Err(ProposeError::Overloaded);
        };
        let timeout = Duration::from_millis(self.limits.propose_timeout_ms);
        let enqueued_at = Instant::now();
        let deadline = enqueued_at + timeout;
        let (outcome, outcome_rx) = oneshot::channel();
        let queue = match options.priority {
            Priority::High => &self.high_priority,
            Priority::Normal => &self.normal_priority,
        };
        match queue.try_send(Proposal {
            command,
            options,
            enqueued_at,
            deadline,
            outcome,
            _bytes: bytes,
        }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ProposeError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ProposeError::ShuttingDown),
        }
        match tokio::time::timeout(timeout + REPLY_GRACE, outcome_rx).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ProposeError::Unknown(
                "the node stopped while the proposal was in flight".into(),
            )),
            Err(_) => Err(ProposeError::Unknown(format!(
                "no outcome within {} ms",
                timeout.as_millis()
            ))),
        }
    }
}

/// Proposals of one entry, and the first one that did not fit into it.
type Gathered<R> = (Vec<Proposal<R>>, Option<Proposal<R>>);

/// Task behind [`Proposer`].
pub(crate) struct Batcher<S: StateMachine> {
    normal_priority: mpsc::Receiver<Proposal<S::Reply>>,
    high_priority: mpsc::Receiver<Proposal<S::Reply>>,
    entry: EntryWriter<S>,
    in_flight: Arc<Semaphore>,
    disk_space: Arc<ClusterDiskSpace>,
    clock: Clock,
    limits: Limits,
    stopping: watch::Receiver<bool>,
    metrics: Arc<ConsensusMetrics>,
    piggyback: Arc<PiggybackSource<S::Reply>>,
}

/// Creates the batcher and the [`Proposer`] through which callers reach it.
pub(crate) fn proposals<S: StateMachine>(
    entry: EntryWriter<S>,
    stopping: watch::Receiver<bool>,
    clock: Clock,
    limits: &Limits,
    metrics: Arc<ConsensusMetrics>,
    disk_space: Arc<ClusterDiskSpace>,
    piggyback: Arc<PiggybackSource<S::Reply>>,
) -> (Proposer<S::Reply>, Batcher<S>) {
    let (normal_tx, normal_priority) = mpsc::channel(limits.queue_commands_max);
    let (high_tx, high_priority) = mpsc::channel(limits.queue_commands_max);
    let in_flight = Arc::new(Semaphore::new(limits.entries_in_flight_max));
    let proposer = Proposer {
        check_command: S::check_command,
        normal_priority: normal_tx,
        high_priority: high_tx,
        bytes: Arc::new(Semaphore::new(
            limits.queue_bytes_max.min(Semaphore::MAX_PERMITS),
        )),
        in_flight: Arc::clone(&in_flight),
        role: entry.role.clone(),
        fatal_error: entry.fatal_error.clone(),
        disk_space: Arc::clone(&disk_space),
        limits: limits.clone(),
        metrics: Arc::clone(&metrics),
    };
    let batcher = Batcher {
        normal_priority,
        high_priority,
        entry,
        in_flight,
        disk_space,
        clock,
        limits: limits.clone(),
        stopping,
        metrics,
        piggyback,
    };
    (proposer, batcher)
}

impl<S: StateMachine> Batcher<S> {
    pub(crate) async fn run(mut self) {
        let mut carried_over = None;
        loop {
            let first = match carried_over.take() {
                Some(proposal) => proposal,
                None => tokio::select! {
                    biased;
                    _ = self.stopping.wait_for(|stopping| *stopping) => break,
                    proposal = self.high_priority.recv() => match proposal {
                        Some(proposal) => proposal,
                        None => return,
                    },
                    proposal = self.normal_priority.recv() => match proposal {
                        Some(proposal) => proposal,
                        None => return,
                    },
                },
            };
            let slot = tokio::select! {
                slot = Arc::clone(&self.in_flight).acquire_owned() => slot.expect("the semaphore is never closed"),
                // The proposal waited behind others until its deadline and was not sent.
                () = tokio::time::sleep_until(first.deadline.into()) => {
                    first.complete(Err(ProposeError::Overloaded));
                    continue;
                }
                _ = self.stopping.wait_for(|stopping| *stopping) => {
                    first.complete(Err(ProposeError::ShuttingDown));
                    break;
                }
            };
            let term = match self.entry.confirmed_term(first.deadline).await {
                Ok(term) => term,
                Err(e) => {
                    first.complete(Err(e));
                    continue;
                }
            };
            let (batch, next) = self.gather(first, term);
            carried_over = next;
            if batch.is_empty() {
                continue;
            }
            self.send(batch, term, slot);
        }
        for queue in [&mut self.high_priority, &mut self.normal_priority] {
            queue.close();
            while let Ok(proposal) = queue.try_recv() {
                proposal.complete(Err(ProposeError::ShuttingDown));
            }
        }
    }

    /// Collects the waiting proposals that fit into one entry. Also returns the first one that did not fit.
    fn gather(&mut self, first: Proposal<S::Reply>, term: u64) -> Gathered<S::Reply> {
        let now = Instant::now();
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut candidate = Some(first);
        while let Some(proposal) = candidate.take().or_else(|| {
            let commands = batch.len() * 4 / self.limits.batch_commands_max;
            let filled = commands.max(bytes * 4 / self.limits.batch_bytes_max);
            // Once proposals of high priority fill their part of the entry, those of normal priority are taken first.
            self.next(match filled < HIGH_PRIORITY_QUARTERS {
                true => Priority::High,
                false => Priority::Normal,
            })
        }) {
            if proposal.outcome.is_closed() {
                continue;
            }
            if proposal.options.term.is_some_and(|wanted| wanted != term)
                && !mutated!(DecisionsNotFenced)
            {
                proposal.complete(Err(ProposeError::NotLeader { leader: None }));
                continue;
            }
            if proposal.deadline <= now {
                proposal.complete(Err(ProposeError::Overloaded));
                continue;
            }
            // The disk is checked again, because the proposal may have waited for long.
            if let Some(why) = self.disk_space.write_refusal(proposal.command.len()) {
                proposal.complete(Err(ProposeError::DiskLow(why)));
                continue;
            }
            let size = proposal.command.len() + COMMAND_OVERHEAD_BYTES;
            if !batch.is_empty() && bytes + size > self.limits.batch_bytes_max {
                return (batch, Some(proposal));
            }
            bytes += size;
            batch.push(proposal);
            if batch.len() >= self.limits.batch_commands_max {
                break;
            }
        }
        (batch, None)
    }

    /// Returns the next waiting proposal: one of this priority if there is any, else one of the other.
    fn next(&mut self, preferred: Priority) -> Option<Proposal<S::Reply>> {
        let (before, after) = match preferred {
            Priority::High => (&mut self.high_priority, &mut self.normal_priority),
            Priority::Normal => (&mut self.normal_priority, &mut self.high_priority),
        };
        before.try_recv().or_else(|_| after.try_recv()).ok()
    }

    fn send(&self, batch: Vec<Proposal<S::Reply>>, term: u64, slot: OwnedSemaphorePermit) {
        let deadline = batch
            .iter()
            .map(|p| p.deadline)
            .max()
            .expect("the batch is not empty");
        let mut commands = Vec::with_capacity(batch.len());
        let mut outcomes = Vec::with_capacity(batch.len());
        let begun = Instant::now();
        let allow_piggyback = batch
            .iter()
            .any(|proposal| proposal.options.allow_piggyback);
        for proposal in batch {
            let waited = begun.saturating_duration_since(proposal.enqueued_at);
            self.metrics.proposal_wait.observe_time(waited);
            commands.push(proposal.command);
            outcomes.push(proposal.outcome);
        }
        // A full entry has more proposals behind it, and the leader decides for all of them together.
        let has_capacity = commands.len() < self.limits.batch_commands_max;
        if allow_piggyback
            && has_capacity
            && let Some(piggybacked) = self.piggyback.for_entry(term)
        {
            match S::check_command(&piggybacked.command) {
                Ok(()) => {
                    commands.push(piggybacked.command);
                    outcomes.push(piggybacked.outcome);
                }
                Err(e) => {
                    let malformed = ProposeError::Malformed(e.to_string());
                    let _ = piggybacked.outcome.send(Err(malformed));
                }
            }
        }
        let encoded = encode_commands((self.clock)().min(STAMP_MS_MAX), &commands);
        let metrics = Arc::clone(&self.metrics);
        metrics.entry_commands.observe(commands.len() as u64);
        metrics.entry_bytes.observe(encoded.encoded.len() as u64);
        let entry = self.entry.clone();
        tokio::spawn(async move {
            let result = entry.clone().write(encoded, term, deadline).await;
            drop(slot);
            if result.is_ok() {
                metrics.commit.observe_time(begun.elapsed());
            }
            match result {
                Ok((index, replies)) if replies.len() == outcomes.len() => {
                    for (outcome, reply) in outcomes.into_iter().zip(replies) {
                        let _ = outcome.send(Ok(Committed { index, reply }));
                    }
                }
                Ok((index, replies)) => {
                    let text = format!(
                        "the state machine gave {} replies to the {} commands of entry {index}",
                        replies.len(),
                        outcomes.len()
                    );
                    entry.fatal_error.set(text.clone());
                    for outcome in outcomes {
                        let _ = outcome.send(Err(ProposeError::Unknown(text.clone())));
                    }
                }
                Err(e) => {
                    for outcome in outcomes {
                        let _ = outcome.send(Err(e.clone()));
                    }
                }
            }
        });
    }
}

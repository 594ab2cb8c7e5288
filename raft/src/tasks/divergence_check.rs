//! Whether nodes that applied the same log came to the same state.
//!
//! They must, since applying is deterministic; a bug, a bad memory chip or a mistaken upgrade can break that, and nothing
//! else would ever show it. So whoever owns the state machine hands in a digest of its state at certain entries, the same
//! ones on every node, and each node asks the others for theirs. A node that finds that a majority of the voters has
//! another digest than it has itself is the one that is wrong: it writes that into its directory, so that it does not
//! start again from what it has, and stops. One that finds itself in the majority says who is not. Where nobody has a
//! majority nobody can be blamed, and everyone says so.
//!
//! What this does not do: it does not compare digests that were computed in different ways (see
//! [`Checkpoint::format`]), and it does not wait for nodes that are away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::apply::applier::{Raft, membership};
use crate::fatal::Failure;
use crate::network::transport::{Lane, Target, Transport};
use crate::protocol::messages;
use crate::state_machine::StateMachine;
use crate::storage::open::Directory;

/// So many of one's own digests are remembered for others who ask later.
const KEPT: usize = 16;
/// How long others are asked again that do not have theirs yet.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(250);

/// The digest of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of the state after this entry.
    pub index: u64,
    /// How it was computed. Digests of different formats say nothing about each other.
    pub format: u32,
    /// Equal states have equal digests.
    pub digest: u64,
}

/// What came of comparing so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgreementStatus {
    /// The last entry at which a majority, this node among them, had the same.
    pub agreed_index: u64,
    /// How often that was so.
    pub agreements: u64,
    /// How often another node, or this one, had something else than the majority, or nobody had a majority.
    pub mismatches: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DigestAsk {
    index: u64,
    format: u32,
}

/// `None` while there is none, or none any more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DigestReply {
    digest: Option<u64>,
}

/// This node's digests, for itself and for others who ask.
pub(crate) struct Agreement {
    own: Mutex<VecDeque<Checkpoint>>,
    latest: watch::Sender<Option<Checkpoint>>,
    status: Mutex<AgreementStatus>,
}

impl Agreement {
    pub(crate) fn new() -> Self {
        Agreement {
            own: Mutex::default(),
            latest: watch::Sender::new(None),
            status: Mutex::default(),
        }
    }

    pub(crate) fn note(&self, checkpoint: Checkpoint) {
        {
            let mut own = self.own.lock();
            own.push_back(checkpoint);
            while own.len() > KEPT {
                own.pop_front();
            }
        }
        self.latest.send_replace(Some(checkpoint));
    }

    pub(crate) fn status(&self) -> AgreementStatus {
        *self.status.lock()
    }

    pub(crate) fn answer(&self, ask: &DigestAsk) -> DigestReply {
        let own = self.own.lock();
        let found = own
            .iter()
            .rev()
            .find(|one| (one.index, one.format) == (ask.index, ask.format));
        DigestReply {
            digest: found.map(|one| one.digest),
        }
    }
}

/// What the digests of some voters say.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// Too few are known.
    Open,
    /// A majority has what this node has; these have something else.
    Right { others: Vec<u64> },
    /// A majority has something else.
    Wrong,
    /// All are known, and nobody has a majority.
    Split,
}

fn find(own: u64, own_votes: bool, voters: usize, others: &BTreeMap<u64, u64>) -> Finding {
    let quorum = voters / 2 + 1;
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for digest in others.values() {
        *votes.entry(*digest).or_default() += 1;
    }
    if own_votes {
        *votes.entry(own).or_default() += 1;
    }
    let majority = votes.iter().find(|(_, count)| **count >= quorum);
    match majority.map(|(digest, _)| *digest) {
        Some(digest) if digest == own => Finding::Right {
            others: others
                .iter()
                .filter(|(_, theirs)| **theirs != own)
                .map(|(id, _)| *id)
                .collect(),
        },
        Some(_) => Finding::Wrong,
        None if others.len() + usize::from(own_votes) >= voters => Finding::Split,
        None => Finding::Open,
    }
}

/// The task that compares.
pub(crate) struct Comparer<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub agreement: Arc<Agreement>,
    pub directory: Arc<Directory>,
    pub failure: Failure,
}

impl<S: StateMachine> Comparer<S> {
    pub(crate) async fn run(self) {
        let mut latest = self.agreement.latest.subscribe();
        loop {
            let own = *latest.borrow_and_update();
            if let Some(own) = own {
                tokio::select! {
                    () = self.compare(own) => {}
                    // A newer one counts more.
                    changed = latest.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        continue;
                    }
                }
            }
            if latest.changed().await.is_err() {
                return;
            }
        }
    }

    async fn compare(&self, own: Checkpoint) {
        let begun = Instant::now();
        let me = self.transport.identity.node_id;
        let mut known: BTreeMap<u64, u64> = BTreeMap::new();
        let mut told_right = false;
        loop {
            let membership = membership(&self.raft);
            let voters: Vec<u64> = membership.voter_ids().collect();
            known.retain(|id, _| voters.contains(id));
            let missing = voters
                .iter()
                .filter(|id| **id != me && !known.contains_key(id));
            let asked = missing.filter_map(|id| {
                let target = Target::member(*id, membership.get_node(id)?);
                Some(async move { (target.id, self.ask(&target, own).await) })
            });
            for (id, digest) in futures_util::future::join_all(asked).await {
                known.extend(digest.map(|digest| (id, digest)));
            }
            let all = known.len() + usize::from(voters.contains(&me)) >= voters.len();
            match find(own.digest, voters.contains(&me), voters.len(), &known) {
                Finding::Open => {}
                Finding::Right { others } => {
                    let mut status = self.agreement.status.lock();
                    if !told_right {
                        told_right = true;
                        status.agreed_index = own.index;
                        status.agreements += 1;
                    }
                    if !others.is_empty() {
                        status.mismatches += 1;
                        tracing::error!(
                            index = own.index,
                            nodes = ?others,
                            "other nodes hold another table than the majority; they stop: replace them"
                        );
                    }
                    if all || !others.is_empty() {
                        return;
                    }
                }
                Finding::Wrong if mutated!(DivergenceIgnored) => return,
                Finding::Wrong => {
                    self.agreement.status.lock().mismatches += 1;
                    self.stop(own.index).await;
                    return;
                }
                Finding::Split => {
                    self.agreement.status.lock().mismatches += 1;
                    tracing::error!(
                        index = own.index,
                        own = own.digest,
                        others = ?known,
                        "the nodes hold different tables, and none is that of a majority: stop writing, take backups of each \
                         node, and compare them"
                    );
                    return;
                }
            }
            if begun.elapsed() >= PATIENCE {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn ask(&self, target: &Target, own: Checkpoint) -> Option<u64> {
        let ask = DigestAsk {
            index: own.index,
            format: own.format,
        };
        let deadline = Duration::from_millis(self.transport.timing.append_ms);
        let answer = self
            .transport
            .call(
                Lane::Snapshot,
                target,
                "/raft/digest",
                |out| messages::put(out, &ask),
                16,
                deadline,
            )
            .await
            .ok()?;
        let reply: DigestReply = messages::decode("a digest", &answer).ok()?;
        reply.digest
    }

    /// Not only now: what is on this node's disk led to the wrong state once, and may again.
    async fn stop(&self, index: u64) {
        let what = format!(
            "after entry {index} of the log this node held another table than the majority of the cluster"
        );
        let (directory, noted) = (Arc::clone(&self.directory), what.clone());
        let condemned = tokio::task::spawn_blocking(move || directory.condemn(&noted)).await;
        if !matches!(condemned, Ok(Ok(()))) {
            tracing::error!(
                "this node's directory could not be marked as wrong: do not start it again"
            );
        }
        self.failure.set(format!(
            "{what}: it must not go on, nor start again from what it has. Replace it under a new id"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others(digests: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        digests.iter().copied().collect()
    }

    #[test]
    fn the_minority_is_who_is_wrong() {
        // Three voters, this node among them.
        let three = |known: &[(u64, u64)]| find(7, true, 3, &others(known));
        assert_eq!(three(&[]), Finding::Open);
        assert_eq!(three(&[(2, 8)]), Finding::Open);
        assert_eq!(three(&[(2, 7)]), Finding::Right { others: vec![] });
        assert_eq!(three(&[(2, 7), (3, 8)]), Finding::Right { others: vec![3] });
        assert_eq!(three(&[(2, 8), (3, 8)]), Finding::Wrong);
        assert_eq!(three(&[(2, 8), (3, 9)]), Finding::Split);
        // A learner has no say, and hears all the same.
        assert_eq!(
            find(7, false, 3, &others(&[(1, 8), (2, 8)])),
            Finding::Wrong
        );
        assert_eq!(find(7, false, 3, &others(&[(1, 7)])), Finding::Open);
        // Of two nobody is a majority against the other.
        assert_eq!(find(7, true, 2, &others(&[(2, 8)])), Finding::Split);
        assert_eq!(
            find(7, true, 1, &others(&[])),
            Finding::Right { others: vec![] }
        );
    }

    #[test]
    fn digests_are_told_by_index_and_format() {
        let agreement = Agreement::new();
        for index in 1..=KEPT as u64 + 1 {
            agreement.note(Checkpoint {
                index,
                format: 1,
                digest: index * 10,
            });
        }
        let ask = |index, format| agreement.answer(&DigestAsk { index, format }).digest;
        assert_eq!(ask(5, 1), Some(50));
        assert_eq!(ask(5, 2), None);
        assert_eq!(ask(1, 1), None, "it is too long ago");
    }
}

//! Divergence check: compares whether nodes that applied the same log hold the same state.
//!
//! They must, because applying is deterministic. A bug, a bad memory chip or a mistaken upgrade can break that, and
//! nothing else would ever show it. The owner of the state machine therefore records a digest of its state at certain
//! entries, the same ones on every node. Each node asks the others for theirs.
//!
//! - A node whose digest differs from the digest of a majority of the voters is the one that is wrong. It records that
//!   in its directory, so that it does not start again from what it has, and stops.
//! - A node that finds itself in the majority logs which nodes are not.
//! - Without a majority no node can be blamed, and every node logs that.
//!
//! Digests that were computed in different ways are not compared (see [`Checkpoint::format`]). Nodes that are away are
//! not waited for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::apply::applier::{Raft, membership};
use crate::fatal::FatalErrorSignal;
use crate::network::transport::{Lane, Target, Transport};
use crate::protocol::messages;
use crate::state_machine::StateMachine;
use crate::storage::open::Directory;

/// Number of this node's own digests that are kept for later queries.
const DIGESTS_MAX: usize = 16;
/// Maximum time for which nodes that do not have their digest yet are asked again.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between two queries of a node.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Digest of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Index of the last entry in the state.
    pub index: u64,
    /// Format of the digest: how it was computed. Digests of different formats are not comparable.
    pub format: u32,
    /// Equal states have equal digests.
    pub digest: u64,
}

/// Results of the comparisons so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsistencyStatus {
    /// Last entry at which a majority, this node among them, had the same digest.
    pub verified_index: u64,
    /// Number of such comparisons.
    pub matches: u64,
    /// Number of comparisons in which another node, or this one, differed from the majority, or in which there was no
    /// majority.
    pub mismatches: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DigestRequest {
    index: u64,
    format: u32,
}

/// Answer to a [`DigestRequest`]. `None` while there is no such digest, or it is no longer kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DigestReply {
    digest: Option<u64>,
}

/// Digests of this node, for itself and for the others.
pub(crate) struct DigestHistory {
    own: Mutex<VecDeque<Checkpoint>>,
    latest: watch::Sender<Option<Checkpoint>>,
    status: Mutex<ConsistencyStatus>,
}

impl DigestHistory {
    pub(crate) fn new() -> Self {
        DigestHistory {
            own: Mutex::default(),
            latest: watch::Sender::new(None),
            status: Mutex::default(),
        }
    }

    pub(crate) fn record(&self, checkpoint: Checkpoint) {
        {
            let mut own = self.own.lock();
            own.push_back(checkpoint);
            while own.len() > DIGESTS_MAX {
                own.pop_front();
            }
        }
        self.latest.send_replace(Some(checkpoint));
    }

    pub(crate) fn status(&self) -> ConsistencyStatus {
        *self.status.lock()
    }

    pub(crate) fn reply(&self, request: &DigestRequest) -> DigestReply {
        let own = self.own.lock();
        let found = own
            .iter()
            .rev()
            .find(|one| (one.index, one.format) == (request.index, request.format));
        DigestReply {
            digest: found.map(|one| one.digest),
        }
    }
}

/// Result of comparing the digests of some voters.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    /// Too few digests are known.
    Undecided,
    /// A majority has this node's digest; `others` have a different one.
    InMajority { others: Vec<u64> },
    /// A majority has a different digest.
    Diverged,
    /// All digests are known, and there is no majority.
    NoMajority,
}

fn compare_digests(
    own: u64,
    own_counts: bool,
    voters: usize,
    others: &BTreeMap<u64, u64>,
) -> Comparison {
    let quorum = voters / 2 + 1;
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for digest in others.values() {
        *votes.entry(*digest).or_default() += 1;
    }
    if own_counts {
        *votes.entry(own).or_default() += 1;
    }
    let majority = votes.iter().find(|(_, count)| **count >= quorum);
    match majority.map(|(digest, _)| *digest) {
        Some(digest) if digest == own => Comparison::InMajority {
            others: others
                .iter()
                .filter(|(_, theirs)| **theirs != own)
                .map(|(id, _)| *id)
                .collect(),
        },
        Some(_) => Comparison::Diverged,
        None if others.len() + usize::from(own_counts) >= voters => Comparison::NoMajority,
        None => Comparison::Undecided,
    }
}

/// Task that compares digests.
pub(crate) struct DigestComparer<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub digest_history: Arc<DigestHistory>,
    pub directory: Arc<Directory>,
    pub fatal_error: FatalErrorSignal,
}

impl<S: StateMachine> DigestComparer<S> {
    pub(crate) async fn run(self) {
        let mut latest = self.digest_history.latest.subscribe();
        loop {
            let own = *latest.borrow_and_update();
            if let Some(own) = own {
                tokio::select! {
                    () = self.compare(own) => {}
                    // A newer digest takes the place of this one.
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
        let mut counted = false;
        loop {
            let membership = membership(&self.raft);
            let voters: Vec<u64> = membership.voter_ids().collect();
            known.retain(|id, _| voters.contains(id));
            let missing = voters
                .iter()
                .filter(|id| **id != me && !known.contains_key(id));
            let requests = missing.filter_map(|id| {
                let target = Target::member(*id, membership.get_node(id)?);
                Some(async move { (target.id, self.query(&target, own).await) })
            });
            for (id, digest) in futures_util::future::join_all(requests).await {
                known.extend(digest.map(|digest| (id, digest)));
            }
            let all = known.len() + usize::from(voters.contains(&me)) >= voters.len();
            match compare_digests(own.digest, voters.contains(&me), voters.len(), &known) {
                Comparison::Undecided => {}
                Comparison::InMajority { others } => {
                    let mut status = self.digest_history.status.lock();
                    if !counted {
                        counted = true;
                        status.verified_index = own.index;
                        status.matches += 1;
                    }
                    if !others.is_empty() {
                        status.mismatches += 1;
                        tracing::error!(
                            index = own.index,
                            nodes = ?others,
                            "the tables of these nodes differ from that of the majority; the nodes stop: replace them"
                        );
                    }
                    if all || !others.is_empty() {
                        return;
                    }
                }
                Comparison::Diverged if mutated!(DivergenceIgnored) => return,
                Comparison::Diverged => {
                    self.digest_history.status.lock().mismatches += 1;
                    self.stop(own.index).await;
                    return;
                }
                Comparison::NoMajority => {
                    self.digest_history.status.lock().mismatches += 1;
                    tracing::error!(
                        index = own.index,
                        own = own.digest,
                        others = ?known,
                        "the tables of the nodes differ, and none is that of a majority: stop writing, take a backup of each \
                         node, and compare them"
                    );
                    return;
                }
            }
            if begun.elapsed() >= COMPARE_TIMEOUT {
                return;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn query(&self, target: &Target, own: Checkpoint) -> Option<u64> {
        let request = DigestRequest {
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
                |out| messages::put(out, &request),
                16,
                deadline,
            )
            .await
            .ok()?;
        let reply: DigestReply = messages::decode("a digest", &answer).ok()?;
        reply.digest
    }

    /// Stops this node, and condemns its directory. Its data led to the wrong state once, and may do so again.
    async fn stop(&self, index: u64) {
        let what = format!(
            "after entry {index} of the log, this node's table differed from that of the majority of the cluster"
        );
        let (directory, noted) = (Arc::clone(&self.directory), what.clone());
        let condemned = tokio::task::spawn_blocking(move || directory.condemn(&noted)).await;
        if !matches!(condemned, Ok(Ok(()))) {
            tracing::error!(
                "this node's data directory could not be marked as diverged: do not start the node again"
            );
        }
        self.fatal_error.set(format!(
            "{what}: it stops, and must not start again from its data directory. Replace it under a new id"
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
    fn a_node_has_diverged_if_a_majority_has_another_digest() {
        // There are three voters, this node among them.
        let three = |known: &[(u64, u64)]| compare_digests(7, true, 3, &others(known));
        assert_eq!(three(&[]), Comparison::Undecided);
        assert_eq!(three(&[(2, 8)]), Comparison::Undecided);
        assert_eq!(three(&[(2, 7)]), Comparison::InMajority { others: vec![] });
        assert_eq!(
            three(&[(2, 7), (3, 8)]),
            Comparison::InMajority { others: vec![3] }
        );
        assert_eq!(three(&[(2, 8), (3, 8)]), Comparison::Diverged);
        assert_eq!(three(&[(2, 8), (3, 9)]), Comparison::NoMajority);
        // A learner does not count, but learns the result.
        assert_eq!(
            compare_digests(7, false, 3, &others(&[(1, 8), (2, 8)])),
            Comparison::Diverged
        );
        assert_eq!(
            compare_digests(7, false, 3, &others(&[(1, 7)])),
            Comparison::Undecided
        );
        // With two voters, neither is a majority against the other.
        assert_eq!(
            compare_digests(7, true, 2, &others(&[(2, 8)])),
            Comparison::NoMajority
        );
        assert_eq!(
            compare_digests(7, true, 1, &others(&[])),
            Comparison::InMajority { others: vec![] }
        );
    }

    #[test]
    fn a_digest_is_found_by_index_and_format_until_it_is_too_old() {
        let digest_history = DigestHistory::new();
        for index in 1..=DIGESTS_MAX as u64 + 1 {
            digest_history.record(Checkpoint {
                index,
                format: 1,
                digest: index * 10,
            });
        }
        let request = |index, format| {
            digest_history
                .reply(&DigestRequest { index, format })
                .digest
        };
        assert_eq!(request(5, 1), Some(50));
        assert_eq!(request(5, 2), None);
        assert_eq!(request(1, 1), None, "it is too long ago");
    }
}

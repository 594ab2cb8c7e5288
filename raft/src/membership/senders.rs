//! Lookup of senders that are not among the members known to this node.
//!
//! A node that lags behind does not know the members that were added since. It must accept their messages, or it could
//! never catch up. It must refuse the messages of strangers. It therefore asks the nodes that it knows for their
//! members, and then the nodes in their answers. A node with an empty log asks the addresses that it was started with.
//!
//! # Rule
//!
//! - A sender that any of them lists, under this incarnation, is a member.
//! - A sender that none of them lists is a stranger, if a majority of the voters known here has answered. Each change of
//!   voters is in the logs of a majority of the voters before, so one of those that answered has the next change, or its
//!   members have it.
//! - Otherwise the sender cannot be verified, because too few of the nodes known here are left. Its messages are
//!   accepted: a node that was away while all others were replaced must be able to follow them.
//!
//! One lookup runs at a time, and its result is used again for a while. No number of messages from strangers makes this
//! node ask more often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::apply::applier::{Raft, membership};
use crate::config::BootstrapMode;
use crate::membership::hello::{HelloReply, hello, hello_at, hello_to};
use crate::network::transport::{Target, Transport};
use crate::state_machine::StateMachine;
use crate::types::Member;

/// Time for which a result that lists the sender is used.
const LISTED_MAX_AGE: Duration = Duration::from_secs(10);
/// Time for which a result that does not list the sender is used.
const UNLISTED_MAX_AGE: Duration = Duration::from_millis(500);
/// Maximum number of nodes that one lookup asks.
const ASKED_MAX: usize = 64;
/// Maximum number of rounds of a lookup. Each asks the nodes that the round before has named.
const ROUNDS_MAX: usize = 3;

/// Result of the lookup of a sender that is not among the members known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SenderVerdict {
    /// The sender is a member of the cluster.
    Member,
    /// The sender is no member of the cluster.
    Stranger,
    /// Too few nodes answered.
    Unverifiable,
}

pub(crate) struct SenderLookup<S: StateMachine> {
    pub raft: Raft<S>,
    pub transport: Arc<Transport>,
    pub mode: BootstrapMode,
    /// Last result. Locked during a lookup.
    pub last: Arc<tokio::sync::Mutex<Option<LookupResult>>>,
}

impl<S: StateMachine> Clone for SenderLookup<S> {
    fn clone(&self) -> Self {
        SenderLookup {
            raft: self.raft.clone(),
            transport: Arc::clone(&self.transport),
            mode: self.mode.clone(),
            last: Arc::clone(&self.last),
        }
    }
}

/// Members that the nodes known here have named.
#[derive(Debug)]
pub(crate) struct LookupResult {
    at: Instant,
    named: BTreeSet<(u64, Uuid)>,
    /// Whether a majority of the voters known here has answered.
    majority: bool,
}

impl LookupResult {
    fn verdict(&self, id: u64, incarnation: Uuid) -> SenderVerdict {
        if self.named.contains(&(id, incarnation)) {
            SenderVerdict::Member
        } else if self.majority {
            SenderVerdict::Stranger
        } else {
            SenderVerdict::Unverifiable
        }
    }

    fn is_fresh_for(&self, verdict: SenderVerdict) -> bool {
        let age_max = match verdict {
            SenderVerdict::Member => LISTED_MAX_AGE,
            SenderVerdict::Stranger | SenderVerdict::Unverifiable => UNLISTED_MAX_AGE,
        };
        self.at.elapsed() < age_max
    }
}

impl<S: StateMachine> SenderLookup<S> {
    /// Judges a sender. See the module.
    pub(crate) async fn judge(&self, id: u64, incarnation: Uuid) -> SenderVerdict {
        let lookup = self.clone();
        // A sender that gives up must not end the lookup, or none would ever end.
        let judged = tokio::spawn(async move {
            let mut last = lookup.last.lock().await;
            if let Some(result) = &*last {
                let verdict = result.verdict(id, incarnation);
                if result.is_fresh_for(verdict) {
                    return verdict;
                }
            }
            let result = lookup.look_up().await;
            last.insert(result).verdict(id, incarnation)
        });
        // The lookup fails only while the runtime shuts down.
        judged.await.unwrap_or(SenderVerdict::Stranger)
    }

    async fn look_up(&self) -> LookupResult {
        let me = self.transport.identity.node_id;
        let membership = membership(&self.raft);
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let mut asked: BTreeSet<(u64, Uuid)> =
            BTreeSet::from([(me, self.transport.identity.incarnation)]);
        let mut answered = BTreeSet::from([me]);
        let mut named = BTreeSet::new();
        let mut replies = if voters.is_empty() {
            self.ask_first_addresses().await
        } else {
            let known: BTreeMap<u64, Member> = membership
                .nodes()
                .map(|(id, member)| (*id, member.clone()))
                .collect();
            self.ask(known, &mut asked).await
        };
        for _ in 0..ROUNDS_MAX {
            let mut next = BTreeMap::new();
            for (id, reply) in replies {
                if reply.cluster != self.transport.identity.cluster() {
                    continue;
                }
                answered.insert(id);
                named.insert((id, reply.incarnation));
                named.extend(reply.members.iter().map(|(id, m)| (*id, m.incarnation)));
                next.extend(reply.members);
            }
            replies = self.ask(next, &mut asked).await;
            if replies.is_empty() {
                break;
            }
        }
        let majority = match voters.is_empty() {
            true => answered.len() > 1,
            false => answered.intersection(&voters).count() * 2 > voters.len(),
        };
        LookupResult {
            at: Instant::now(),
            named,
            majority,
        }
    }

    /// Asks members that were not asked yet.
    async fn ask(
        &self,
        members: BTreeMap<u64, Member>,
        asked: &mut BTreeSet<(u64, Uuid)>,
    ) -> Vec<(u64, HelloReply)> {
        let targets: Vec<Target> = members
            .iter()
            .filter(|(id, member)| {
                asked.len() < ASKED_MAX && asked.insert((**id, member.incarnation))
            })
            .map(|(id, member)| Target::member(*id, member))
            .collect();
        let replies = targets.iter().map(|target| async {
            let (reply, _) = hello_to(&self.transport, target).await.ok()?;
            Some((target.id, reply))
        });
        answers(replies).await
    }

    /// Asks the addresses that this node was started with.
    async fn ask_first_addresses(&self) -> Vec<(u64, HelloReply)> {
        let me = self.transport.identity.node_id;
        match &self.mode {
            BootstrapMode::Static(founding) => {
                let others = founding.iter().filter(|(id, _)| **id != me);
                let replies = others.map(|(id, addr)| async {
                    let (reply, _) = hello(&self.transport, *id, addr).await.ok()?;
                    Some((*id, reply))
                });
                answers(replies).await
            }
            BootstrapMode::Join(addresses) => {
                let replies = addresses
                    .iter()
                    .map(|addr| async { hello_at(&self.transport, addr).await.ok() });
                let mut replies = answers(replies).await;
                replies.retain(|(id, _)| *id != me);
                replies
            }
        }
    }
}

async fn answers(
    asked: impl Iterator<Item = impl Future<Output = Option<(u64, HelloReply)>>>,
) -> Vec<(u64, HelloReply)> {
    let replies = futures_util::future::join_all(asked).await;
    replies.into_iter().flatten().collect()
}

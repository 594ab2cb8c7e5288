//! Identity of this node and its members, and the check that every message between nodes must pass.
//!
//! A message is handled only if it was meant for this id on this data directory, in this cluster. Its sender must be on
//! the data directory that the cluster knows it by. A wiped disk that comes back under its old id therefore neither
//! votes nor is voted for. Two clusters on the same ports never mix. Senders that are not among the members known here
//! are checked by [`crate::membership::senders`].

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use uuid::Uuid;

use crate::protocol::messages::{Envelope, Refusal};
use crate::status::FormingStatus;
use crate::types::Member;

/// Identity of this node, shared by everything that sends or receives messages.
#[derive(Debug)]
pub(crate) struct Identity {
    pub node_id: u64,
    pub addr: String,
    pub incarnation: Uuid,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    cluster: Option<Uuid>,
    members: Arc<BTreeMap<u64, Member>>,
    forming: Option<FormingStatus>,
}

impl Identity {
    pub(crate) fn new(
        node_id: u64,
        addr: String,
        incarnation: Uuid,
        cluster: Option<Uuid>,
    ) -> Self {
        Identity {
            node_id,
            addr,
            incarnation,
            state: RwLock::new(State {
                cluster,
                members: Arc::default(),
                forming: None,
            }),
        }
    }

    /// Returns the cluster id. `None` until the cluster is formed.
    pub(crate) fn cluster(&self) -> Option<Uuid> {
        self.state.read().cluster
    }

    /// Sets the cluster id. The caller has written it to disk before.
    ///
    /// # Panics
    ///
    /// Panics if another cluster id is set already, because a cluster id never changes.
    pub(crate) fn set_cluster(&self, cluster: Uuid) {
        let mut state = self.state.write();
        assert!(
            state.cluster.is_none_or(|known| known == cluster),
            "cluster {:?} cannot become {cluster}",
            state.cluster
        );
        state.cluster = Some(cluster);
    }

    /// Returns the nodes of the effective membership, learners too.
    pub(crate) fn members(&self) -> Arc<BTreeMap<u64, Member>> {
        Arc::clone(&self.state.read().members)
    }

    pub(crate) fn set_members(&self, members: BTreeMap<u64, Member>) {
        self.state.write().members = Arc::new(members);
    }

    /// Returns the progress of the formation, while it lasts.
    pub(crate) fn forming(&self) -> Option<FormingStatus> {
        self.state.read().forming.clone()
    }

    pub(crate) fn set_forming(&self, forming: Option<FormingStatus>) {
        self.state.write().forming = forming;
    }

    /// Returns the head of a message to `to`.
    pub(crate) fn envelope(&self, to: u64, to_incarnation: Uuid) -> Envelope {
        Envelope {
            cluster: self.cluster().unwrap_or(Uuid::nil()),
            from: self.node_id,
            from_incarnation: self.incarnation,
            to,
            to_incarnation,
        }
    }

    /// Checks that a message is for this node as such. It may come from outside the cluster.
    pub(crate) fn check_receiver(&self, envelope: &Envelope) -> Result<(), Refusal> {
        if envelope.to != self.node_id {
            return Err(Refusal::OtherNode {
                id: self.node_id,
                meant: envelope.to,
            });
        }
        if !envelope.to_incarnation.is_nil() && envelope.to_incarnation != self.incarnation {
            return Err(Refusal::OtherIncarnation {
                id: self.node_id,
                incarnation: self.incarnation,
            });
        }
        Ok(())
    }

    /// Checks that a message is for this node, and comes from its cluster. Returns the member that sent it, if it is
    /// known here.
    pub(crate) fn check_peer(&self, envelope: &Envelope) -> Result<Option<Member>, Refusal> {
        self.check_receiver(envelope)?;
        if envelope.from == self.node_id {
            return Err(Refusal::Rule(format!(
                "it is itself node {}, and takes no messages of another process of that id",
                self.node_id
            )));
        }
        let state = self.state.read();
        let Some(mine) = state.cluster else {
            return Err(Refusal::NotFormed);
        };
        if envelope.cluster != mine {
            return Err(Refusal::OtherCluster {
                mine,
                yours: envelope.cluster,
            });
        }
        let known = state.members.get(&envelope.from);
        known
            .map(|known| check_incarnation(known, envelope))
            .transpose()
    }
}

/// Checks that a member speaks from the data directory that the cluster knows it by. Returns the member.
pub(crate) fn check_incarnation(known: &Member, envelope: &Envelope) -> Result<Member, Refusal> {
    if known.incarnation != envelope.from_incarnation && !mutated!(WipedDirectoryVotes) {
        return Err(Refusal::SenderReplaced {
            from: envelope.from,
        });
    }
    Ok(known.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: Uuid = Uuid::from_bytes([9; 16]);
    const MINE: Uuid = Uuid::from_bytes([1; 16]);
    const PEERS: Uuid = Uuid::from_bytes([2; 16]);

    fn identity() -> Identity {
        let identity = Identity::new(1, "h:1".into(), MINE, Some(CLUSTER));
        identity.set_members(BTreeMap::from([(
            2,
            Member {
                addr: "h:2".into(),
                incarnation: PEERS,
            },
        )]));
        identity
    }

    fn from_2() -> Envelope {
        Envelope {
            cluster: CLUSTER,
            from: 2,
            from_incarnation: PEERS,
            to: 1,
            to_incarnation: MINE,
        }
    }

    #[test]
    fn only_a_known_directory_of_the_same_cluster_is_heard() {
        let me = identity();
        let other = Uuid::from_bytes([3; 16]);
        let member = Member {
            addr: "h:2".into(),
            incarnation: PEERS,
        };
        assert_eq!(me.check_peer(&from_2()), Ok(Some(member.clone())));
        assert_eq!(
            me.check_peer(&Envelope {
                to_incarnation: Uuid::nil(),
                ..from_2()
            }),
            Ok(Some(member))
        );
        assert_eq!(
            me.check_peer(&Envelope {
                from: 7,
                from_incarnation: other,
                ..from_2()
            }),
            Ok(None)
        );
        assert_eq!(
            me.check_peer(&Envelope {
                cluster: other,
                ..from_2()
            }),
            Err(Refusal::OtherCluster {
                mine: CLUSTER,
                yours: other
            })
        );
        assert_eq!(
            me.check_peer(&Envelope {
                from_incarnation: other,
                ..from_2()
            }),
            Err(Refusal::SenderReplaced { from: 2 })
        );
        assert_eq!(
            me.check_peer(&Envelope { to: 3, ..from_2() }),
            Err(Refusal::OtherNode { id: 1, meant: 3 })
        );
        assert_eq!(
            me.check_peer(&Envelope {
                to_incarnation: other,
                ..from_2()
            }),
            Err(Refusal::OtherIncarnation {
                id: 1,
                incarnation: MINE
            })
        );
        let itself = Envelope {
            from: 1,
            from_incarnation: MINE,
            ..from_2()
        };
        assert!(matches!(me.check_peer(&itself), Err(Refusal::Rule(_))));
        let fresh = Identity::new(1, "h:1".into(), MINE, None);
        assert_eq!(fresh.check_peer(&from_2()), Err(Refusal::NotFormed));
    }
}

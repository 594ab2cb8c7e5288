//! Types that this crate passes to openraft, and shorthands for openraft's own.
//!
//! Terms are standard Raft terms (one leader per term), so a log id is a term and an index. None of these types is
//! visible outside this crate, and none is a storage or wire format. The formats are in
//! [`crate::protocol::entry_format`] and [`crate::protocol::messages`].

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

openraft::declare_raft_types!(
    /// openraft's type configuration for this crate.
    pub(crate) Config:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Batch, u64, Member>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, Member>;
pub(crate) type Snapshot<D> = openraft::Snapshot<CommittedLeaderId, u64, Member, D>;

/// Returns the log id of `index` in `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// Record of a node in the membership entry. The incarnation is the data directory's. The same id on another directory
/// is another node, which has forgotten what it voted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub(crate) struct Member {
    pub addr: String,
    pub incarnation: Uuid,
}

/// Commands of one entry, in the encoding of [`crate::protocol::entry_format`]. Encoded by the leader and never changed
/// after.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub encoded: Bytes,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.encoded.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.encoded.len())
    }
}

/// Replies of the state machine to the commands of one entry, on their way through openraft to the proposers on the
/// same node.
///
/// openraft wants a serializable, shareable type although it never serializes or shares it. The replies are skipped by
/// serde, and the lock makes them shareable.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Replies {
    #[serde(skip)]
    boxed: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Replies {
    pub(crate) fn new<T: Send + 'static>(replies: Vec<T>) -> Self {
        Replies {
            boxed: Mutex::new(Some(Box::new(replies))),
        }
    }

    /// Returns the replies, if `T` is the type they were made of.
    pub(crate) fn take<T: Send + 'static>(self) -> Option<Vec<T>> {
        let boxed = self.boxed.into_inner()?;
        boxed.downcast::<Vec<T>>().ok().map(|replies| *replies)
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replies")
    }
}

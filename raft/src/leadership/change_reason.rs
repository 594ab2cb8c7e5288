//! Reasons of leader changes, as exactly as each node can know them.
//!
//! A candidate sends its reason with its request for votes. A leader that transfers leadership sends its reason to all
//! nodes. After a change, every node that was reached therefore logs the same reason. A node that was not reached logs
//! its own observation: the old leader fell silent, or this node led and lost its quorum.
//!
//! The reasons are for operators only. No decision depends on them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::leadership::role::LeaderContact;
use crate::status::ms;

/// Maximum number of remembered campaigns.
const CAMPAIGNS_MAX: usize = 16;

/// Reason why a leader transfers leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferReason {
    /// An operator asked for it.
    Operator,
    /// The leader's process was asked to stop.
    Shutdown,
    /// The leader is being removed from the cluster.
    Removal,
    /// The leader's disk is nearly full.
    DiskLow,
    /// Entries waited, and the leader could not commit them. Travels in a header only.
    CommitsStalled,
    /// A sync of the leader's disk did not end. Travels in a header only.
    DiskHangs,
}

/// Header of transfers and votes with a reason that older nodes do not know. They would refuse a message with it in the
/// body, and they ignore a header.
pub(crate) const CHANGE_REASON_HEADER: &str = "triarch-change-reason";

impl TransferReason {
    /// Returns the reason as it travels in the body of a message, if every version of a node can decode it.
    pub(crate) fn in_body(self) -> Option<Self> {
        self.in_header().is_none().then_some(self)
    }

    /// Returns the value of [`CHANGE_REASON_HEADER`], for a reason that does not travel in the body.
    pub(crate) fn in_header(self) -> Option<&'static str> {
        match self {
            TransferReason::Operator
            | TransferReason::Shutdown
            | TransferReason::Removal
            | TransferReason::DiskLow => None,
            TransferReason::CommitsStalled => Some("commits_stalled"),
            TransferReason::DiskHangs => Some("disk_hangs"),
        }
    }

    /// Returns the reason in a header.
    pub(crate) fn from_header(value: &str) -> Option<Self> {
        [TransferReason::CommitsStalled, TransferReason::DiskHangs]
            .into_iter()
            .find(|reason| reason.in_header() == Some(value))
    }
}

/// Reason why there is another leader, or the same leader in another term. Travels between nodes: new variants go to
/// the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeaderChangeReason {
    /// The candidate had known of no leader since it started.
    NoLeader,
    /// The candidate had not heard the old leader for `ms` milliseconds.
    Silent { ms: u64 },
    /// Connections to the old leader were refused, because its process had ended.
    Refused,
    /// The old leader transferred leadership.
    Transferred(TransferReason),
    /// The old leader reported that it had not reached a majority for `ms` milliseconds: cut off, stopped, or starved.
    LostQuorum { ms: u64 },
    /// This node started, or came back, and found the leader leading.
    Found,
    /// No other node sent a reason.
    Unknown,
}

/// Kind of a leader change, without its particulars. Label of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderChangeKind {
    /// No leader was known since a start.
    NoLeader,
    /// The old leader was not heard.
    Silent,
    /// Connections to the old leader were refused.
    Refused,
    /// An operator requested the transfer.
    Operator,
    /// The old leader transferred leadership at its shutdown.
    Shutdown,
    /// The old leader transferred leadership because it was removed.
    Removal,
    /// The old leader transferred leadership because its disk was nearly full.
    DiskLow,
    /// The old leader transferred leadership because it could not commit.
    CommitsStalled,
    /// The old leader transferred leadership because its disk did not finish a sync.
    DiskHangs,
    /// The old leader had lost its majority.
    LostQuorum,
    /// This node was absent when the leader changed.
    Found,
    /// No reason is known.
    Unknown,
}

impl LeaderChangeKind {
    /// All kinds.
    pub const ALL: [LeaderChangeKind; 12] = [
        LeaderChangeKind::NoLeader,
        LeaderChangeKind::Silent,
        LeaderChangeKind::Refused,
        LeaderChangeKind::Operator,
        LeaderChangeKind::Shutdown,
        LeaderChangeKind::Removal,
        LeaderChangeKind::DiskLow,
        LeaderChangeKind::CommitsStalled,
        LeaderChangeKind::DiskHangs,
        LeaderChangeKind::LostQuorum,
        LeaderChangeKind::Found,
        LeaderChangeKind::Unknown,
    ];

    /// Returns the name of the kind in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            LeaderChangeKind::NoLeader => "no_leader_known",
            LeaderChangeKind::Silent => "leader_silent",
            LeaderChangeKind::Refused => "connections_refused",
            LeaderChangeKind::Operator => "transferred_by_operator",
            LeaderChangeKind::Shutdown => "transferred_at_shutdown",
            LeaderChangeKind::Removal => "transferred_for_removal",
            LeaderChangeKind::DiskLow => "transferred_for_low_disk",
            LeaderChangeKind::CommitsStalled => "transferred_for_stalled_commits",
            LeaderChangeKind::DiskHangs => "transferred_for_hanging_disk",
            LeaderChangeKind::LostQuorum => "majority_lost",
            LeaderChangeKind::Found => "found_leading",
            LeaderChangeKind::Unknown => "unknown",
        }
    }

    /// Returns whether the change was intended.
    pub fn is_planned(self) -> bool {
        match self {
            LeaderChangeKind::NoLeader
            | LeaderChangeKind::Operator
            | LeaderChangeKind::Shutdown
            | LeaderChangeKind::Removal
            | LeaderChangeKind::Found => true,
            LeaderChangeKind::DiskLow
            | LeaderChangeKind::CommitsStalled
            | LeaderChangeKind::DiskHangs
            | LeaderChangeKind::Silent
            | LeaderChangeKind::Refused
            | LeaderChangeKind::LostQuorum
            | LeaderChangeKind::Unknown => false,
        }
    }
}

impl LeaderChangeReason {
    pub(crate) fn kind(self) -> LeaderChangeKind {
        match self {
            LeaderChangeReason::NoLeader => LeaderChangeKind::NoLeader,
            LeaderChangeReason::Silent { .. } => LeaderChangeKind::Silent,
            LeaderChangeReason::Refused => LeaderChangeKind::Refused,
            LeaderChangeReason::Transferred(TransferReason::Operator) => LeaderChangeKind::Operator,
            LeaderChangeReason::Transferred(TransferReason::Shutdown) => LeaderChangeKind::Shutdown,
            LeaderChangeReason::Transferred(TransferReason::Removal) => LeaderChangeKind::Removal,
            LeaderChangeReason::Transferred(TransferReason::DiskLow) => LeaderChangeKind::DiskLow,
            LeaderChangeReason::Transferred(TransferReason::CommitsStalled) => {
                LeaderChangeKind::CommitsStalled
            }
            LeaderChangeReason::Transferred(TransferReason::DiskHangs) => {
                LeaderChangeKind::DiskHangs
            }
            LeaderChangeReason::LostQuorum { .. } => LeaderChangeKind::LostQuorum,
            LeaderChangeReason::Found => LeaderChangeKind::Found,
            LeaderChangeReason::Unknown => LeaderChangeKind::Unknown,
        }
    }

    /// Returns the reason as it travels in the body of a message.
    pub(crate) fn in_body(self) -> Self {
        match self.in_header() {
            Some(_) => LeaderChangeReason::Unknown,
            None => self,
        }
    }

    /// Returns the value of [`CHANGE_REASON_HEADER`], for a reason that does not travel in the body.
    pub(crate) fn in_header(self) -> Option<&'static str> {
        match self {
            LeaderChangeReason::Transferred(why) => why.in_header(),
            LeaderChangeReason::NoLeader
            | LeaderChangeReason::Silent { .. }
            | LeaderChangeReason::Refused
            | LeaderChangeReason::LostQuorum { .. }
            | LeaderChangeReason::Found
            | LeaderChangeReason::Unknown => None,
        }
    }

    /// Returns a clause for log messages.
    pub(crate) fn describe(self, old: Option<u64>) -> String {
        let old = old.map_or_else(
            || "the leader before".to_owned(),
            |old| format!("node {old}"),
        );
        match self {
            LeaderChangeReason::NoLeader => "no leader was known before".to_owned(),
            LeaderChangeReason::Silent { ms } => format!("{old} had not been heard for {ms} ms"),
            LeaderChangeReason::Refused => format!("connections to {old} were refused"),
            LeaderChangeReason::Transferred(TransferReason::Operator) => {
                format!("{old} handed leadership over as it was asked to")
            }
            LeaderChangeReason::Transferred(TransferReason::Shutdown) => {
                format!("{old} handed leadership over because it stops")
            }
            LeaderChangeReason::Transferred(TransferReason::Removal) => {
                format!("{old} handed leadership over because it is removed")
            }
            LeaderChangeReason::Transferred(TransferReason::DiskLow) => {
                format!("{old} handed leadership over because its disk is nearly full")
            }
            LeaderChangeReason::Transferred(TransferReason::CommitsStalled) => {
                format!("{old} handed leadership over because it could not commit")
            }
            LeaderChangeReason::Transferred(TransferReason::DiskHangs) => {
                format!("{old} handed leadership over because its disk does not finish a sync")
            }
            LeaderChangeReason::LostQuorum { ms } => {
                format!("{old} led and had not reached a majority for {ms} ms")
            }
            LeaderChangeReason::Found => "this node was not up when it was elected".to_owned(),
            LeaderChangeReason::Unknown => "this node does not know the reason".to_owned(),
        }
    }
}

/// Reasons known to this node: its own, and those that other nodes sent.
#[derive(Debug)]
pub(crate) struct LeaderChangeReasons {
    leader_contact: Arc<LeaderContact>,
    /// Time of the last answer of a majority to this node as leader.
    quorum_acked_at: Mutex<Option<Instant>>,
    /// Last leadership transfer: term, target, reason.
    last_transfer: Mutex<Option<(u64, u64, TransferReason)>>,
    /// Latest campaigns, this node's own among them: term, candidate, reason.
    campaigns: Mutex<VecDeque<(u64, u64, LeaderChangeReason)>>,
}

impl LeaderChangeReasons {
    pub(crate) fn new(leader_contact: Arc<LeaderContact>) -> Self {
        LeaderChangeReasons {
            leader_contact,
            quorum_acked_at: Mutex::new(None),
            last_transfer: Mutex::new(None),
            campaigns: Mutex::default(),
        }
    }

    /// Records that the leader of `term` transfers leadership to `to`.
    pub(crate) fn record_transfer(&self, term: u64, to: u64, why: TransferReason) {
        let mut last = self.last_transfer.lock();
        if last.is_none_or(|(known, ..)| known <= term) {
            *last = Some((term, to, why));
        }
    }

    /// Returns why the leader of `term` transfers leadership, if it does.
    pub(crate) fn transfer_reason(&self, term: u64) -> Option<TransferReason> {
        let last = *self.last_transfer.lock();
        last.filter(|(known, ..)| *known == term)
            .map(|(_, _, why)| why)
    }

    /// Records that `candidate` asks for votes in `term`, with its reason.
    pub(crate) fn record_campaign(&self, term: u64, candidate: u64, why: LeaderChangeReason) {
        let mut campaigns = self.campaigns.lock();
        if campaigns
            .iter()
            .any(|(known, who, _)| (*known, *who) == (term, candidate))
        {
            return;
        }
        if campaigns.len() == CAMPAIGNS_MAX {
            campaigns.pop_front();
        }
        campaigns.push_back((term, candidate, why));
    }

    /// Returns why this node campaigns in `term`. The first answer for a term stays.
    pub(crate) fn own_campaign(
        &self,
        term: u64,
        node: u64,
        transferred: bool,
    ) -> LeaderChangeReason {
        if let Some(known) = self.campaign_reason(term, node) {
            return known;
        }
        let last_transfer = *self.last_transfer.lock();
        let reason = match last_transfer {
            Some((before, to, why)) if transferred && to == node && before < term => {
                LeaderChangeReason::Transferred(why)
            }
            Some(_) | None => self.observed(),
        };
        self.record_campaign(term, node, reason);
        reason
    }

    /// Returns whether `node` took over in `term` from a leader that could not commit.
    pub(crate) fn took_over_from_stall(&self, term: u64, node: u64) -> bool {
        self.campaign_reason(term, node)
            .map(LeaderChangeReason::kind)
            == Some(LeaderChangeKind::CommitsStalled)
    }

    /// Records that a majority answered this node as leader at `at`.
    pub(crate) fn record_quorum_ack(&self, at: Instant) {
        *self.quorum_acked_at.lock() = Some(at);
    }

    /// Returns this node's own observation of the leader it followed last, or of itself if it led since.
    fn observed(&self) -> LeaderChangeReason {
        let unacked = self.quorum_acked_at.lock().map(|at| at.elapsed());
        if let Some(unacked) = unacked
            && self
                .leader_contact
                .elapsed()
                .is_none_or(|age| unacked < age)
        {
            return LeaderChangeReason::LostQuorum { ms: ms(unacked) };
        }
        if self.leader_contact.is_suspected() {
            return LeaderChangeReason::Refused;
        }
        match self.leader_contact.elapsed() {
            Some(age) => LeaderChangeReason::Silent { ms: ms(age) },
            None => LeaderChangeReason::NoLeader,
        }
    }

    fn campaign_reason(&self, term: u64, candidate: u64) -> Option<LeaderChangeReason> {
        let campaigns = self.campaigns.lock();
        let mut found = campaigns
            .iter()
            .filter(|(known, who, _)| (*known, *who) == (term, candidate));
        found.next().map(|(.., why)| *why)
    }

    /// Returns why `leader` leads in `term`. `before` is the term and leader that this node knew last. `lost` is the
    /// reason why this node had stopped counting on that leader, if it had.
    pub(crate) fn reason_of_change(
        &self,
        term: u64,
        leader: u64,
        me: u64,
        before: Option<(u64, u64)>,
        lost: Option<LeaderChangeReason>,
    ) -> LeaderChangeReason {
        let last_transfer = *self.last_transfer.lock();
        match (last_transfer, before) {
            (Some((in_term, to, why)), Some((old_term, _)))
                if in_term == old_term && to == leader =>
            {
                return LeaderChangeReason::Transferred(why);
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        match (lost, self.campaign_reason(term, leader), before) {
            // The old leader knows more about itself than other nodes do.
            (Some(lost @ LeaderChangeReason::LostQuorum { .. }), _, _) => lost,
            (_, Some(reason), _) => reason,
            // No candidate asked this node for its vote: it was away, or the others were quicker.
            (Some(seen), None, _) => seen,
            (None, None, Some(_)) => LeaderChangeReason::Unknown,
            // A node without peers asks no other node for a vote.
            (None, None, None) if leader == me => LeaderChangeReason::NoLeader,
            (None, None, None) => LeaderChangeReason::Found,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reasons() -> LeaderChangeReasons {
        LeaderChangeReasons::new(Arc::new(LeaderContact::new()))
    }

    #[test]
    fn the_reason_of_a_candidate_is_used_by_every_node_it_asked() {
        let reasons = reasons();
        reasons.record_campaign(5, 2, LeaderChangeReason::Refused);
        let seen = Some(LeaderChangeReason::Silent { ms: 400 });
        assert_eq!(
            reasons.reason_of_change(5, 2, 9, Some((4, 1)), seen),
            LeaderChangeReason::Refused
        );
        assert_eq!(
            reasons.reason_of_change(6, 3, 9, Some((4, 1)), seen),
            LeaderChangeReason::Silent { ms: 400 }
        );
        assert_eq!(
            reasons.reason_of_change(6, 3, 9, Some((4, 1)), None),
            LeaderChangeReason::Unknown
        );
        assert_eq!(
            reasons.reason_of_change(6, 3, 9, None, None),
            LeaderChangeReason::Found
        );
        assert_eq!(
            reasons.reason_of_change(6, 9, 9, None, None),
            LeaderChangeReason::NoLeader
        );
    }

    #[test]
    fn a_transfer_reason_applies_only_to_its_term_and_target() {
        let reasons = reasons();
        reasons.record_transfer(4, 2, TransferReason::Shutdown);
        reasons.record_campaign(5, 2, LeaderChangeReason::Silent { ms: 1 });
        let transferred = LeaderChangeReason::Transferred(TransferReason::Shutdown);
        assert_eq!(
            reasons.reason_of_change(5, 2, 9, Some((4, 1)), None),
            transferred
        );
        assert_eq!(
            reasons.own_campaign(6, 3, true),
            LeaderChangeReason::NoLeader
        );
        assert_eq!(
            reasons.own_campaign(5, 2, true),
            LeaderChangeReason::Silent { ms: 1 }
        );
        // Another candidate was quicker, or the change happened a term later.
        assert_eq!(
            reasons.reason_of_change(5, 3, 9, Some((4, 1)), None),
            LeaderChangeReason::Unknown
        );
        assert_eq!(
            reasons.reason_of_change(7, 2, 9, Some((6, 1)), None),
            LeaderChangeReason::Unknown
        );
    }

    #[test]
    fn the_reason_of_a_campaign_stays_what_it_was_when_it_began() {
        let leader_contact = Arc::new(LeaderContact::new());
        let reasons = LeaderChangeReasons::new(Arc::clone(&leader_contact));
        assert_eq!(
            reasons.own_campaign(1, 1, false),
            LeaderChangeReason::NoLeader
        );
        leader_contact.record(0);
        assert_eq!(
            reasons.own_campaign(1, 1, false),
            LeaderChangeReason::NoLeader
        );
        assert!(matches!(
            reasons.own_campaign(2, 1, false),
            LeaderChangeReason::Silent { .. }
        ));
        // It led since, and lost its quorum.
        reasons.record_quorum_ack(Instant::now() + Duration::from_millis(1));
        assert!(matches!(
            reasons.own_campaign(3, 1, false),
            LeaderChangeReason::LostQuorum { .. }
        ));
    }

    /// A node of an older version must be able to decode every body.
    #[test]
    fn a_reason_that_older_nodes_do_not_know_travels_in_the_header_only() {
        for why in [
            TransferReason::Operator,
            TransferReason::Shutdown,
            TransferReason::Removal,
            TransferReason::DiskLow,
            TransferReason::CommitsStalled,
            TransferReason::DiskHangs,
        ] {
            assert_ne!(
                why.in_body().is_some(),
                why.in_header().is_some(),
                "{why:?}"
            );
            assert_eq!(
                why.in_header().and_then(TransferReason::from_header),
                why.in_body().is_none().then_some(why)
            );
        }
        let stalled = LeaderChangeReason::Transferred(TransferReason::CommitsStalled);
        assert_eq!(stalled.in_body(), LeaderChangeReason::Unknown);
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let words: std::collections::BTreeSet<&str> = LeaderChangeKind::ALL
            .into_iter()
            .map(LeaderChangeKind::as_str)
            .collect();
        assert_eq!(words.len(), LeaderChangeKind::ALL.len());
    }
}

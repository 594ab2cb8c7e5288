//! Why leadership changes, as truly as each node can know it.
//!
//! Whoever campaigns knows why, and says so to those whose votes it asks for; whoever hands leadership over says why to
//! all. So after a change every node that was reached tells the same cause. One that was not says what it saw itself: that
//! the old leader fell silent, or that it had lost touch with a majority when it led.
//!
//! Causes are for operators. Nothing is decided by them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::leadership::role::Heard;

/// How many campaigns of others are remembered.
const TOLD_MAX: usize = 16;

/// Why a leader hands leadership over by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOverReason {
    /// Somebody asked for it.
    Operator,
    /// Its process is told to stop.
    Shutdown,
    /// It is taken out of the cluster.
    Removal,
    /// Its disk is nearly full.
    DiskLow,
}

/// Why there is another leader, or the same in another term. Travels between nodes: new ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// Who campaigned had known of no leader since it started.
    NoLeader,
    /// Who campaigned had not heard the old leader for so long.
    Silent { ms: u64 },
    /// Connections to the old leader were refused: its process had ended.
    Refused,
    /// The old leader gave leadership away.
    HandedOver(HandOverReason),
    /// The old leader had not reached a majority for so long, by its own word: cut off, stopped, or starved.
    LostQuorum { ms: u64 },
    /// This node has started, or come back, and found the leader leading.
    Found,
    /// Nobody told this node.
    Unknown,
}

/// A [`Cause`] without its particulars, to count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CauseKind {
    /// No leader was known since a start.
    NoLeader,
    /// The old leader was not heard.
    Silent,
    /// Connections to the old leader were refused.
    Refused,
    /// An operator had it handed over.
    Operator,
    /// It was handed over at a shutdown.
    Shutdown,
    /// It was handed over by a leader that was removed.
    Removal,
    /// It was handed over by a leader whose disk was nearly full.
    DiskLow,
    /// The old leader had lost its majority.
    LostQuorum,
    /// This node had not been there when it changed.
    Found,
    /// Not known.
    Unknown,
}

impl CauseKind {
    /// All of them.
    pub const ALL: [CauseKind; 10] = [
        CauseKind::NoLeader,
        CauseKind::Silent,
        CauseKind::Refused,
        CauseKind::Operator,
        CauseKind::Shutdown,
        CauseKind::Removal,
        CauseKind::DiskLow,
        CauseKind::LostQuorum,
        CauseKind::Found,
        CauseKind::Unknown,
    ];

    /// A word for it, in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            CauseKind::NoLeader => "no_leader_known",
            CauseKind::Silent => "leader_silent",
            CauseKind::Refused => "connections_refused",
            CauseKind::Operator => "transferred_by_operator",
            CauseKind::Shutdown => "transferred_at_shutdown",
            CauseKind::Removal => "transferred_for_removal",
            CauseKind::DiskLow => "transferred_for_low_disk",
            CauseKind::LostQuorum => "majority_lost",
            CauseKind::Found => "found_leading",
            CauseKind::Unknown => "unknown",
        }
    }

    /// Whether somebody meant it to happen.
    pub fn is_wanted(self) -> bool {
        match self {
            CauseKind::NoLeader
            | CauseKind::Operator
            | CauseKind::Shutdown
            | CauseKind::Removal
            | CauseKind::Found => true,
            CauseKind::DiskLow
            | CauseKind::Silent
            | CauseKind::Refused
            | CauseKind::LostQuorum
            | CauseKind::Unknown => false,
        }
    }
}

impl Cause {
    pub(crate) fn kind(self) -> CauseKind {
        match self {
            Cause::NoLeader => CauseKind::NoLeader,
            Cause::Silent { .. } => CauseKind::Silent,
            Cause::Refused => CauseKind::Refused,
            Cause::HandedOver(HandOverReason::Operator) => CauseKind::Operator,
            Cause::HandedOver(HandOverReason::Shutdown) => CauseKind::Shutdown,
            Cause::HandedOver(HandOverReason::Removal) => CauseKind::Removal,
            Cause::HandedOver(HandOverReason::DiskLow) => CauseKind::DiskLow,
            Cause::LostQuorum { .. } => CauseKind::LostQuorum,
            Cause::Found => CauseKind::Found,
            Cause::Unknown => CauseKind::Unknown,
        }
    }

    /// For people.
    pub(crate) fn words(self, old: Option<u64>) -> String {
        let old = old.map_or_else(
            || "the leader before".to_owned(),
            |old| format!("node {old}"),
        );
        match self {
            Cause::NoLeader => "no leader was known before".to_owned(),
            Cause::Silent { ms } => format!("{old} had not been heard for {ms} ms"),
            Cause::Refused => format!("connections to {old} were refused"),
            Cause::HandedOver(HandOverReason::Operator) => {
                format!("{old} handed leadership over as it was asked to")
            }
            Cause::HandedOver(HandOverReason::Shutdown) => {
                format!("{old} handed leadership over because it stops")
            }
            Cause::HandedOver(HandOverReason::Removal) => {
                format!("{old} handed leadership over because it is removed")
            }
            Cause::HandedOver(HandOverReason::DiskLow) => {
                format!("{old} handed leadership over because its disk is nearly full")
            }
            Cause::LostQuorum { ms } => {
                format!("{old} led and had not reached a majority for {ms} ms")
            }
            Cause::Found => "this node was not there when it was elected".to_owned(),
            Cause::Unknown => "why, this node was not told".to_owned(),
        }
    }
}

/// What this node knows of causes: its own reasons, and what others told it.
#[derive(Debug)]
pub(crate) struct Causes {
    heard: Arc<Heard>,
    /// When a majority last answered this node as leader.
    acked: Mutex<Option<Instant>>,
    /// The last time leadership was handed over: in which term, to whom, why.
    handed_over: Mutex<Option<(u64, u64, HandOverReason)>>,
    /// The latest campaigns, this node's own among them: in which term, whose, why.
    told: Mutex<VecDeque<(u64, u64, Cause)>>,
}

impl Causes {
    pub(crate) fn new(heard: Arc<Heard>) -> Self {
        Causes {
            heard,
            acked: Mutex::new(None),
            handed_over: Mutex::new(None),
            told: Mutex::default(),
        }
    }

    /// The leader of `term` hands over to `to`.
    pub(crate) fn hand_over(&self, term: u64, to: u64, why: HandOverReason) {
        let mut last = self.handed_over.lock();
        if last.is_none_or(|(known, ..)| known <= term) {
            *last = Some((term, to, why));
        }
    }

    /// Why the leader of `term` hands over, if it does.
    pub(crate) fn hand_over_of(&self, term: u64) -> Option<HandOverReason> {
        let last = *self.handed_over.lock();
        last.filter(|(known, ..)| *known == term)
            .map(|(_, _, why)| why)
    }

    /// `candidate` asks for votes in `term`, and says why.
    pub(crate) fn told(&self, term: u64, candidate: u64, why: Cause) {
        let mut told = self.told.lock();
        if told
            .iter()
            .any(|(known, who, _)| (*known, *who) == (term, candidate))
        {
            return;
        }
        if told.len() == TOLD_MAX {
            told.pop_front();
        }
        told.push_back((term, candidate, why));
    }

    /// Why this node campaigns in `term`. The first answer for a term stays.
    pub(crate) fn own(&self, term: u64, node: u64, transferred: bool) -> Cause {
        if let Some(known) = self.known(term, node) {
            return known;
        }
        let handed_over = *self.handed_over.lock();
        let cause = match handed_over {
            Some((before, to, why)) if transferred && to == node && before < term => {
                Cause::HandedOver(why)
            }
            Some(_) | None => self.seen(),
        };
        self.told(term, node, cause);
        cause
    }

    /// This node leads, and a majority answered it then.
    pub(crate) fn acked(&self, at: Instant) {
        *self.acked.lock() = Some(at);
    }

    /// What this node itself has seen of the leader that it followed last, or of itself if it led since.
    fn seen(&self) -> Cause {
        let unacked = self.acked.lock().map(|at| at.elapsed());
        if let Some(unacked) = unacked
            && self.heard.age().is_none_or(|age| unacked < age)
        {
            return Cause::LostQuorum { ms: ms(unacked) };
        }
        if self.heard.is_suspected() {
            return Cause::Refused;
        }
        match self.heard.age() {
            Some(age) => Cause::Silent { ms: ms(age) },
            None => Cause::NoLeader,
        }
    }

    fn known(&self, term: u64, candidate: u64) -> Option<Cause> {
        let told = self.told.lock();
        let mut found = told
            .iter()
            .filter(|(known, who, _)| (*known, *who) == (term, candidate));
        found.next().map(|(.., why)| *why)
    }

    /// Why `leader` leads in `term`. `before` is the term and leader that this node knew last, and `lost` why it had
    /// stopped counting on that one, if it had.
    pub(crate) fn of(
        &self,
        term: u64,
        leader: u64,
        me: u64,
        before: Option<(u64, u64)>,
        lost: Option<Cause>,
    ) -> Cause {
        let handed_over = *self.handed_over.lock();
        match (handed_over, before) {
            (Some((in_term, to, why)), Some((old_term, _)))
                if in_term == old_term && to == leader =>
            {
                return Cause::HandedOver(why);
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        match (lost, self.known(term, leader), before) {
            // Of itself the old leader knows more than others do.
            (Some(lost @ Cause::LostQuorum { .. }), _, _) => lost,
            (_, Some(told), _) => told,
            // Nobody asked this node for its vote: it was away, or the others were quicker.
            (Some(seen), None, _) => seen,
            (None, None, Some(_)) => Cause::Unknown,
            // Alone, it asked nobody.
            (None, None, None) if leader == me => Cause::NoLeader,
            (None, None, None) => Cause::Found,
        }
    }
}

pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes() -> Causes {
        Causes::new(Arc::new(Heard::new()))
    }

    #[test]
    fn what_the_candidate_says_counts_for_all_who_were_asked() {
        let causes = causes();
        causes.told(5, 2, Cause::Refused);
        let seen = Some(Cause::Silent { ms: 400 });
        assert_eq!(causes.of(5, 2, 9, Some((4, 1)), seen), Cause::Refused);
        assert_eq!(
            causes.of(6, 3, 9, Some((4, 1)), seen),
            Cause::Silent { ms: 400 }
        );
        assert_eq!(causes.of(6, 3, 9, Some((4, 1)), None), Cause::Unknown);
        assert_eq!(causes.of(6, 3, 9, None, None), Cause::Found);
        assert_eq!(causes.of(6, 9, 9, None, None), Cause::NoLeader);
    }

    #[test]
    fn a_hand_over_counts_for_the_term_it_ended_and_for_whom_it_was() {
        let causes = causes();
        causes.hand_over(4, 2, HandOverReason::Shutdown);
        causes.told(5, 2, Cause::Silent { ms: 1 });
        let handed = Cause::HandedOver(HandOverReason::Shutdown);
        assert_eq!(causes.of(5, 2, 9, Some((4, 1)), None), handed);
        assert_eq!(causes.own(6, 3, true), Cause::NoLeader);
        assert_eq!(causes.own(5, 2, true), Cause::Silent { ms: 1 });
        // Another was quicker, or it happened a term later.
        assert_eq!(causes.of(5, 3, 9, Some((4, 1)), None), Cause::Unknown);
        assert_eq!(causes.of(7, 2, 9, Some((6, 1)), None), Cause::Unknown);
    }

    #[test]
    fn the_reason_of_a_campaign_stays_what_it_was_when_it_began() {
        let heard = Arc::new(Heard::new());
        let causes = Causes::new(Arc::clone(&heard));
        assert_eq!(causes.own(1, 1, false), Cause::NoLeader);
        heard.now();
        assert_eq!(causes.own(1, 1, false), Cause::NoLeader);
        assert!(matches!(causes.own(2, 1, false), Cause::Silent { .. }));
        // It led since, and lost touch.
        causes.acked(Instant::now() + Duration::from_millis(1));
        assert!(matches!(causes.own(3, 1, false), Cause::LostQuorum { .. }));
    }

    #[test]
    fn words_are_told_apart() {
        let words: std::collections::BTreeSet<&str> =
            CauseKind::ALL.into_iter().map(CauseKind::as_str).collect();
        assert_eq!(words.len(), CauseKind::ALL.len());
    }
}

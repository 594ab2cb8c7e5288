//! Acknowledged entries: what each member has said to be on its disk, and what is known to be committed.
//!
//! A disk that is put back to an earlier state forgets what its node acknowledged. Its node would then help to elect a
//! leader without those entries. The node itself cannot know; its peers can. Every message between nodes, and every
//! answer, therefore carries what its sender knows of all members ([`ACKNOWLEDGED_HEADER`]). Each node keeps what it
//! hears, also on its disk.
//!
//! The *floor* of a node is the last entry that it or another member has applied. It votes only for logs that reach the
//! floor, as it would without the loss, and does not campaign with a log that does not reach it. In a cluster without a
//! loss, a majority has the floor on its disks, so the floor keeps nobody from being elected who could be elected.
//!
//! If two nodes have applied different entries in one place, a disk was put back, and tasks of both histories were
//! acknowledged. Neither is right then. Both nodes stop, and the operator decides.
//!
//! # Invariants
//!
//! - Only the answer to a question of this node, at the member's own address, stops this node or raises its floor. A
//!   message can come from anybody: what one says leads to such a question at most.
//! - Only entries that are applied on both sides are compared. Others may differ in a cluster without a loss.
//! - What a member says replaces what it said before: a wrong floor ends with the next answer of that member.

mod facts;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

pub(crate) use self::facts::{ACKNOWLEDGED_HEADER, Facts, Question, question};
use self::facts::{put, read, set};
use crate::protocol::history::{self, Conflict, History};
use crate::protocol::messages;
use crate::types::LogId;

/// Interval between two log messages about campaigns that this node refuses itself.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Where operators read what to do about two histories.
const ADVICE: &str = "no node goes on until you have decided which of the two histories to keep: see \"Restored disks\" in the \
                      operations guide, and delete no data directory before";

/// What this node knows to be acknowledged, and what follows from it.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    node_id: u64,
    history: Arc<History>,
    state: Mutex<State>,
    contradiction: watch::Sender<Option<String>>,
    /// Notified when this node learns of a loss. It votes again once that is on its disk.
    loss: Notify,
}

/// Facts that are not on this node's disk yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsaved {
    pub text: String,
    /// This node has learned of a loss: the facts must survive a power cut.
    pub durable: bool,
}

#[derive(Debug, Default)]
struct State {
    facts: Facts,
    /// Last entry that is applied here.
    applied: Option<LogId>,
    /// Facts are not on this node's disk yet.
    unsaved: bool,
    /// This node has learned that its log lacks what it acknowledged. It says so once.
    lost: bool,
    /// That is not on this node's disk yet.
    loss_unsaved: bool,
    /// Highest term that a peer has named since then.
    terms_heard: u64,
    /// Time of the first campaign that this node refused itself, or of the last log message about it.
    refused_since: Option<Instant>,
    /// Members whose logs were seen to end before what they acknowledged.
    reported: BTreeSet<u64>,
}

impl State {
    /// Returns the entry that a candidate's log must reach.
    fn floor(&self) -> Option<LogId> {
        let others = self.facts.others_committed.values().max().copied();
        others.max(self.facts.committed)
    }
}

impl Acknowledged {
    pub(crate) fn new(node_id: u64, history: Arc<History>, facts: Facts) -> Self {
        let state = State {
            facts,
            ..State::default()
        };
        Acknowledged {
            node_id,
            history,
            state: Mutex::new(state),
            contradiction: watch::Sender::new(None),
            loss: Notify::new(),
        }
    }

    /// Records that an entry is applied here. It is committed.
    pub(crate) fn record_applied(&self, id: LogId) {
        let mut state = self.state.lock();
        state.applied = Some(id);
        if state.facts.committed < Some(id) {
            state.facts.committed = Some(id);
            state.unsaved = true;
        }
    }

    /// Records what members have acknowledged to this node, which leads.
    pub(crate) fn record_members(&self, members: impl Iterator<Item = (u64, LogId)>) {
        let mut state = self.state.lock();
        for (member, id) in members {
            let raised = state.facts.raise(member, id);
            state.unsaved |= raised;
        }
    }

    /// Records who leads a term.
    pub(crate) fn record_leader_of_term(&self, term: u64, leader: u64) {
        self.state.lock().facts.leader = Some((term, leader));
    }

    /// Returns the facts if they are not on disk yet. The caller writes them, and calls [`Acknowledged::record_saved`]
    /// if they were durable.
    pub(crate) fn take_unsaved(&self) -> Option<Unsaved> {
        let mut state = self.state.lock();
        let durable = state.loss_unsaved;
        let replaced = self.history.replaced();
        if state.facts.replaced < replaced {
            state.facts.replaced = replaced;
            state.unsaved = true;
        }
        (std::mem::take(&mut state.unsaved) || durable).then(|| Unsaved {
            text: state.facts.to_file(),
            durable,
        })
    }

    /// Records that a loss that was learned of is on disk. This node may vote again.
    pub(crate) fn record_saved(&self) {
        self.state.lock().loss_unsaved = false;
    }

    /// Waits until this node learns of a loss.
    pub(crate) async fn loss(&self) {
        self.loss.notified().await;
    }

    /// Returns the value of [`ACKNOWLEDGED_HEADER`] for messages of this node.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.header_with(None)
    }

    fn header_with(&self, entry: Option<LogId>) -> Option<HeaderValue> {
        let mut text = {
            let state = self.state.lock();
            state.facts.to_text(self.reached(&state))
        };
        put(&mut text, &"e", entry);
        (!text.is_empty())
            .then(|| HeaderValue::from_str(&text).ok())
            .flatten()
    }

    /// Returns the last entry that is on this disk, or was until a leader or a snapshot replaced it.
    fn reached(&self, state: &State) -> Option<LogId> {
        let known = state.facts.replaced.max(state.applied);
        self.history.reached().max(known)
    }

    /// Returns the headers of an answer to a question: what this node knows, with the term of its entry
    /// at the index up to which the other log is committed, and the checksums of the last entry that is applied here and
    /// that both logs reach.
    pub(crate) fn answer_headers(&self, question: &Question) -> HeaderMap {
        let applied = self.state.lock().applied.map(|id| id.index);
        let on_both = |theirs: Option<LogId>| Some(applied?.min(theirs?.index));
        let entry = on_both(question.committed).and_then(|index| self.history.id_at(index));
        let history = on_both(question.last).and_then(|index| self.history.header_at(index));
        let acknowledged = self.header_with(entry);
        let acknowledged = acknowledged.map(|value| (ACKNOWLEDGED_HEADER, value));
        let history = history.map(|value| (history::HISTORY_HEADER, value));
        HeaderMap::from_iter(acknowledged.into_iter().chain(history))
    }

    /// Returns how a message with these headers contradicts this node's history. That is no proof yet, because anybody
    /// can send a message.
    pub(crate) fn contradicted_by(&self, headers: &HeaderMap) -> Option<Conflict> {
        let (said, _) = read(headers)?;
        if mutated!(ContradictionOverruled) {
            return None;
        }
        self.history
            .compare_committed(said.committed?, self.committed_index())
    }

    /// Takes up what the leader `from` says in the headers of an append that consensus has taken. Nothing but the text of
    /// messages to operators depends on it.
    pub(crate) fn record_leader(&self, headers: &HeaderMap) {
        let Some((said, _)) = read(headers) else {
            return;
        };
        let mut state = self.state.lock();
        for (member, id) in said.members {
            let raised = self.history.holds(id) == Some(true) && state.facts.raise(member, id);
            state.unsaved |= raised;
        }
    }

    /// Returns what a member has acknowledged, as far as this node knows. Taken before a message is sent to it: see
    /// [`Acknowledged::record_answer`].
    pub(crate) fn acknowledged_by(&self, member: u64) -> Option<LogId> {
        self.state.lock().facts.members.get(&member).copied()
    }

    /// Takes up what a member says in the headers of an answer. `acknowledged` is what it had acknowledged when it was
    /// asked: answers may overtake each other.
    pub(crate) fn record_answer(
        &self,
        from: u64,
        acknowledged: Option<LogId>,
        headers: &HeaderMap,
    ) {
        let Some((said, their_last)) = read(headers) else {
            return;
        };
        let own_last = self.history.last();
        let committed = self.committed_index();
        let mut state = self.state.lock();
        let known_term = own_last
            .max(state.facts.committed)
            .map_or(0, |id| id.leader_id.term);
        let ids = said.members.values().chain(&said.committed);
        let absurd = |id: &LogId| messages::check_term(known_term, id.leader_id.term).is_err();
        if ids.chain(&their_last).any(absurd) {
            return;
        }
        let conflict = self.proven_conflict(&said, committed, headers);
        if let Some(conflict) = conflict
            && !mutated!(ContradictionOverruled)
        {
            // What belongs to the other history is not mixed with what is known of this one.
            let known = state.facts.clone();
            drop(state);
            self.contradict(from, conflict, &known, &said);
            return;
        }
        for (member, id) in &said.members {
            let raised = state.facts.raise(*member, *id);
            state.unsaved |= raised;
        }
        if let Some(committed) = said.committed {
            let changed = set(&mut state.facts.others_committed, from, committed);
            state.unsaved |= changed;
        }
        self.report_loss_of_peer(&mut state, from, acknowledged, their_last);
        let terms = said.members.values().chain(&said.committed);
        let terms = terms.chain(&their_last).map(|id| id.leader_id.term);
        let heard = terms.max().unwrap_or(0);
        self.report_own_loss(&mut state, from, heard);
    }

    /// Compares what an answer says to be applied there with what is committed here.
    fn proven_conflict(
        &self,
        said: &Facts,
        committed: Option<u64>,
        headers: &HeaderMap,
    ) -> Option<Conflict> {
        let theirs = said.committed?;
        let by_terms = [Some(theirs), said.entry]
            .into_iter()
            .flatten()
            .find_map(|theirs| self.history.compare_committed(theirs, committed));
        let by_checksums = || {
            let (index, mark) = history::read_mark(headers)?;
            let on_both = index <= theirs.index && Some(index) <= committed;
            on_both.then(|| self.history.compare_mark(index, mark))?
        };
        by_terms.or_else(by_checksums)
    }

    /// Logs that a member's log ends before what it acknowledged, once per loss.
    fn report_loss_of_peer(
        &self,
        state: &mut State,
        from: u64,
        acknowledged: Option<LogId>,
        their_last: Option<LogId>,
    ) {
        let (Some(acknowledged), Some(last)) = (acknowledged, their_last) else {
            return;
        };
        if last >= acknowledged {
            state.reported.remove(&from);
        } else if state.reported.insert(from) {
            tracing::error!(
                peer = from,
                "the disk of node {from} is older than what it acknowledged: it acknowledged entry {} of term {}, and its log \
                 ends with entry {} of term {}. It votes only for nodes that have that entry, until it has it again. Was its \
                 disk restored from a backup?",
                acknowledged.index,
                acknowledged.leader_id.term,
                last.index,
                last.leader_id.term
            );
        }
    }

    /// Logs that this node's log ends before what it acknowledged, once.
    fn report_own_loss(&self, state: &mut State, from: u64, heard: u64) {
        let acknowledged = state.facts.members.get(&self.node_id).copied();
        let own_last = self.reached(state);
        let lost = acknowledged.filter(|id| own_last < Some(*id));
        let Some(acknowledged) = lost else {
            if state.lost {
                tracing::info!("this node's log has what it acknowledged again");
            }
            state.lost = false;
            return;
        };
        state.terms_heard = state.terms_heard.max(heard);
        if std::mem::replace(&mut state.lost, true) {
            return;
        }
        state.loss_unsaved = true;
        self.loss.notify_one();
        tracing::error!(
            peer = from,
            "the disk of this node is older than what it acknowledged: node {from} knows that it acknowledged entry {} of term \
             {}, and its log ends with entry {}. It votes only for nodes that have that entry, until it has it again. Was its \
             disk restored from a backup? A disk that loses what it has acknowledged must be replaced",
            acknowledged.index,
            acknowledged.leader_id.term,
            own_last.map_or(0, |last| last.index)
        );
    }

    /// Returns whether a vote is refused to a candidate with this last entry: its log lacks entries that were
    /// acknowledged, or this node may have voted in that term and forgotten it.
    pub(crate) fn refuses_vote(&self, term: u64, last: Option<LogId>) -> bool {
        if mutated!(RestoredDiskVotes) {
            return false;
        }
        let state = self.state.lock();
        let forgotten = state.lost && (state.loss_unsaved || term <= state.terms_heard);
        forgotten || last < state.floor() || self.contradiction.borrow().is_some()
    }

    /// Returns why this node does not campaign, if it does not.
    pub(crate) fn refuses_campaign(&self) -> Option<String> {
        if mutated!(RestoredDiskVotes) {
            return None;
        }
        let last = self.history.last();
        let mut state = self.state.lock();
        let floor = state.floor()?;
        if last >= Some(floor) {
            state.refused_since = None;
            return None;
        }
        let mut others = state.facts.others_committed.iter();
        let by = match others.find(|(_, id)| **id == floor) {
            Some((member, _)) => format!("node {member} has applied it"),
            None => "it was applied here".to_owned(),
        };
        let why = format!(
            "this node does not campaign: its log ends with entry {}, and lacks entry {} of term {}, which is committed ({by})",
            last.map_or(0, |last| last.index),
            floor.index,
            floor.leader_id.term
        );
        // A node that is only behind learns of a leader soon.
        let since = *state.refused_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= REFUSAL_LOG_INTERVAL {
            state.refused_since = Some(Instant::now());
            tracing::warn!(
                "{why}. A node that has the entry must run. If none is left, see \"Restored disks\" in the operations guide"
            );
        }
        Some(why)
    }

    /// Returns the index up to which this log is known to be committed.
    pub(crate) fn committed_index(&self) -> Option<u64> {
        let state = self.state.lock();
        let held = |id: &&LogId| self.history.holds(**id) == Some(true);
        let others = state.facts.others_committed.values().filter(held).max();
        let known = state.facts.committed.as_ref().filter(held).max(others);
        state.applied.max(known.copied()).map(|id| id.index)
    }

    /// Returns a receiver of the reason why this node must stop: its history and another one are both acknowledged.
    pub(crate) fn contradiction(&self) -> watch::Receiver<Option<String>> {
        self.contradiction.subscribe()
    }

    fn contradict(&self, by: u64, conflict: Conflict, known: &Facts, said: &Facts) {
        self.contradiction.send_if_modified(|current| {
            if current.is_some() {
                return false;
            }
            let text = self.explain(by, conflict, known, said);
            tracing::error!(peer = by, "{text}");
            *current = Some(text);
            true
        });
    }

    fn explain(&self, by: u64, conflict: Conflict, known: &Facts, said: &Facts) -> String {
        let difference = conflict.to_string();
        let (own, theirs) = (conflict.own.or(known.committed), Some(conflict.theirs));
        // A member that acknowledged both histories has lost one of them. The leader of a term has all of its entries.
        let led = |facts: &Facts, entry: Option<LogId>, id: u64| {
            entry.is_some_and(|entry| facts.leader == Some((entry.leader_id.term, id)))
        };
        let acknowledged_own = |id: &u64| {
            *id == self.node_id
                || led(known, own, *id)
                || known.members.get(id).is_some_and(|last| Some(*last) >= own)
        };
        let acknowledged_theirs = |id: &u64| {
            let of_theirs =
                |last: &LogId| Some(*last) >= theirs || self.history.holds(*last) == Some(false);
            *id == by || led(said, theirs, *id) || said.members.get(id).is_some_and(of_theirs)
        };
        let both: BTreeSet<u64> = known
            .members
            .keys()
            .chain(said.members.keys())
            .copied()
            .collect();
        let lost: Vec<String> = both
            .iter()
            .filter(|id| acknowledged_own(id) && acknowledged_theirs(id))
            .map(|id| {
                let reached = known.members.get(id).max(said.members.get(id));
                let reached = reached.map_or(0, |last| last.index);
                match *id == self.node_id {
                    true => format!("this node (it acknowledged entry {reached})"),
                    false => format!("node {id} (it acknowledged entry {reached})"),
                }
            })
            .collect();
        let whose = match lost.as_slice() {
            [] => "a node that acknowledged both".to_owned(),
            names => names.join(" and of "),
        };
        format!(
            "the history of node {by} contradicts this node's history: {difference}. Both were acknowledged. The disk of {whose} \
             is older than what it acknowledged; it was probably restored from a backup. This node stops, and {ADVICE}"
        )
    }
}

//! History of this node's log: checksums by which two nodes see whether their logs hold the same entries.
//!
//! Consensus takes two entries with one log id for the same entry. That holds unless a disk is put back to an earlier
//! state: its node then helps to write other entries under ids that were used before. Each entry therefore has a
//! checksum of its id and its bytes, and a chain value that covers all entries before it. Both are made of replicated
//! bytes only, so they are equal on all nodes.
//!
//! The history is in memory. It is rebuilt at start from the last snapshot, which carries the chain at its end, and the
//! entries after it. A snapshot of level 1 carries none: the chain is then unknown until another node tells it, and
//! entries are compared one by one.
//!
//! The checksums never change: nodes of different versions compare them. Another definition needs another header.
//!
//! # Invariants
//!
//! - The marks are consecutive, and the last one is that of the last entry.
//! - A purge removes nothing: the past of a log stays comparable for as long as it is in memory.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::protocol::entry_format;
use crate::types::{LogId, log_id};

/// Header of an append and of a heartbeat: the checksums of the sender's entry before it. In an answer: those of the last
/// entry that is committed there and that both logs reach.
pub(crate) const HISTORY_HEADER: HeaderName = HeaderName::from_static("triarch-history");
/// Maximum number of entries whose checksums are kept.
const MARKS_MAX: usize = 32_768;
/// Maximum number of terms of which the first index is kept.
const EPOCHS_MAX: usize = 256;
/// Chain value before the first entry of a log.
const ORIGIN: u64 = 0x7472_6961_7263_6831;

/// Checksums of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Checksum of the id and the bytes of the entry.
    pub entry: u64,
    /// Checksum of the entry and all entries before it, if those are known.
    pub chain: Option<u64>,
}

/// First entry of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Epoch {
    pub term: u64,
    pub first_index: u64,
}

/// History up to an entry: all that is needed to continue it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Anchor {
    /// Chain value at the entry.
    pub chain: u64,
    /// Last terms up to the entry.
    pub epochs: Vec<Epoch>,
}

impl Anchor {
    /// Returns the term of the entry at `index`, which is not after the anchor's entry.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        term_in(self.epochs.iter().rev(), index)
    }

    /// Returns whether later terms have later entries.
    pub(crate) fn is_sorted(&self) -> bool {
        let rises = |a: &Epoch, b: &Epoch| a.term < b.term && a.first_index < b.first_index;
        self.epochs.is_sorted_by(rises)
    }
}

fn term_in<'a>(mut last_first: impl Iterator<Item = &'a Epoch>, index: u64) -> Option<u64> {
    last_first
        .find(|epoch| epoch.first_index <= index)
        .map(|epoch| epoch.term)
}

/// Way in which a log contradicts an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The entry, as this node has it. `None` if this node's log goes on without it.
    pub own: Option<LogId>,
    /// The entry, as the other node has it.
    pub theirs: LogId,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, term) = (self.theirs.index, self.theirs.leader_id.term);
        match self.own.map(|own| own.leader_id.term) {
            Some(own) if own != term => {
                write!(
                    f,
                    "entry {index} is of term {own} here and of term {term} there"
                )
            }
            Some(_) => write!(f, "entry {index} of term {term}, or one before it, differs"),
            None => write!(f, "entry {index} of term {term} is missing here"),
        }
    }
}

/// History of this node's log. Shared by everything that compares it.
#[derive(Debug, Default)]
pub(crate) struct History {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Index of the first mark.
    first: u64,
    /// Chain value before the first mark. `None` while it is unknown.
    before: Option<u64>,
    marks: VecDeque<Mark>,
    epochs: VecDeque<Epoch>,
    /// Anchor of a snapshot that is being installed.
    pending: Option<(LogId, Anchor)>,
    /// Last entry that this process has removed because a leader had others.
    replaced: Option<LogId>,
}

impl History {
    /// Records an entry that was appended to the log.
    pub(crate) fn append(&self, id: LogId, payload: &[u8]) {
        self.state.lock().append(id, entry_checksum(id, payload));
    }

    /// Records that the entries from `index` on were removed.
    pub(crate) fn truncate_from(&self, index: u64) {
        self.state.lock().truncate_from(index);
    }

    /// Records that the log begins after `upto`. Only a log that ends before it, in the order of consensus, changes: a
    /// snapshot takes its place.
    pub(crate) fn purge(&self, upto: LogId) {
        let mut state = self.state.lock();
        if state.last() >= Some(upto) {
            return;
        }
        let anchor = match state.pending.take() {
            Some((id, anchor)) if id == upto => Some(anchor),
            other => {
                state.pending = other;
                None
            }
        };
        state.begin_after(upto, anchor);
    }

    /// Records the history up to a snapshot that is about to be installed, or was found at start.
    pub(crate) fn set_anchor(&self, id: LogId, anchor: Anchor) {
        let mut state = self.state.lock();
        let begins_after =
            state.first == id.index + 1 && state.term_at(id.index) == Some(id.leader_id.term);
        if begins_after && state.marks.is_empty() {
            state.begin_after(id, Some(anchor));
        } else if begins_after || state.mark(id).is_some() {
            state.learn_chain(id.index, anchor.chain);
        } else {
            state.pending = Some((id, anchor));
        }
    }

    /// Makes the log begin after a snapshot, at start.
    pub(crate) fn begin_after(&self, id: LogId, anchor: Option<Anchor>) {
        self.state.lock().begin_after(id, anchor);
    }

    /// Returns the history up to an entry, if it is known.
    pub(crate) fn anchor_at(&self, id: LogId) -> Option<Anchor> {
        let state = self.state.lock();
        let chain = match state.mark(id) {
            Some(mark) => mark.chain?,
            None if id.index + 1 == state.first
                && state.term_at(id.index) == Some(id.leader_id.term) =>
            {
                state.before?
            }
            None => return None,
        };
        let upto = state.epochs.iter().filter(|e| e.first_index <= id.index);
        Some(Anchor {
            chain,
            epochs: upto.copied().collect(),
        })
    }

    /// Returns the last entry.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.state.lock().last()
    }

    /// Returns the last entry that this log has, or had before a leader replaced it.
    pub(crate) fn reached(&self) -> Option<LogId> {
        let state = self.state.lock();
        state.last().max(state.replaced)
    }

    /// Returns the last entry that this process has removed because a leader had others.
    pub(crate) fn replaced(&self) -> Option<LogId> {
        self.state.lock().replaced
    }

    /// Returns the value of [`HISTORY_HEADER`] for a message that continues `previous`.
    pub(crate) fn header(&self, previous: Option<LogId>) -> Option<HeaderValue> {
        let previous = previous?;
        let mark = self.state.lock().mark(previous)?;
        mark.to_header(previous.index)
    }

    /// Returns the id of the entry at `index`. `None` if it is no longer known.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        Some(log_id(self.state.lock().term_at(index)?, index))
    }

    /// Returns the value of [`HISTORY_HEADER`] for an answer about the entry at `index`.
    pub(crate) fn header_at(&self, index: u64) -> Option<HeaderValue> {
        let mark = self.state.lock().mark_at(index)?;
        mark.to_header(index)
    }

    /// Compares an entry that another node knows to be committed with the one at the same index here, which is committed
    /// too. Learns the chain from it if it is unknown here.
    pub(crate) fn compare_mark(&self, index: u64, theirs: Mark) -> Option<Conflict> {
        let mut state = self.state.lock();
        let own = state.mark_at(index)?;
        let same = match (own.chain, theirs.chain) {
            (Some(own), Some(theirs)) => own == theirs,
            (Some(_) | None, Some(_) | None) => own.entry == theirs.entry,
        };
        if same && let (None, Some(chain)) = (own.chain, theirs.chain) {
            state.learn_chain(index, chain);
        }
        let id = log_id(state.term_at(index)?, index);
        (!same).then_some(Conflict {
            own: Some(id),
            theirs: id,
        })
    }

    /// Compares an entry of another node, and its checksums if they are known, with this log.
    pub(crate) fn compare(
        &self,
        theirs: LogId,
        mark: Option<Mark>,
        committed_index: Option<u64>,
    ) -> Option<Conflict> {
        let state = self.state.lock();
        let own_term = state.term_at(theirs.index)?;
        let conflict = Conflict {
            own: Some(log_id(own_term, theirs.index)),
            theirs,
        };
        if own_term != theirs.leader_id.term {
            // An entry that was never committed may be replaced.
            return (Some(theirs.index) <= committed_index).then_some(conflict);
        }
        let (own, mark) = (state.mark(theirs)?, mark?);
        let differs = match (own.chain, mark.chain) {
            (Some(own), Some(theirs)) => own != theirs,
            (Some(_) | None, Some(_) | None) => false,
        };
        (differs || own.entry != mark.entry).then_some(conflict)
    }

    /// Compares an entry that another node knows to be committed with the entries up to `committed_index` here.
    ///
    /// Committed entries have one log, in which terms never fall. What follows them here proves nothing: an entry of an
    /// earlier term may be committed after a leader of a later term was elected without it.
    pub(crate) fn compare_committed(
        &self,
        theirs: LogId,
        committed_index: Option<u64>,
    ) -> Option<Conflict> {
        let state = self.state.lock();
        let committed_index = committed_index?;
        let their_term = theirs.leader_id.term;
        if theirs.index > committed_index {
            let follows = state.term_at(committed_index)? <= their_term;
            return (!follows).then_some(Conflict { own: None, theirs });
        }
        let own_term = state.term_at(theirs.index)?;
        (own_term != their_term).then_some(Conflict {
            own: Some(log_id(own_term, theirs.index)),
            theirs,
        })
    }

    /// Returns whether this log holds the entry. `None` if that is no longer known.
    pub(crate) fn holds(&self, id: LogId) -> Option<bool> {
        let state = self.state.lock();
        if id.index >= state.end() {
            return Some(false);
        }
        Some(state.term_at(id.index)? == id.leader_id.term)
    }
}

impl Mark {
    fn to_header(self, index: u64) -> Option<HeaderValue> {
        let entry = self.entry;
        let text = match self.chain {
            Some(chain) => format!("{index}-{entry:x}-{chain:x}"),
            None => format!("{index}-{entry:x}"),
        };
        HeaderValue::from_str(&text).ok()
    }
}

/// Returns the checksums in the headers of a message that continues `previous`.
pub(crate) fn mark_in(headers: &HeaderMap, previous: LogId) -> Option<Mark> {
    let (index, mark) = read_mark(headers)?;
    (index == previous.index).then_some(mark)
}

/// Returns the index and the checksums in the headers of a message.
pub(crate) fn read_mark(headers: &HeaderMap) -> Option<(u64, Mark)> {
    let mut parts = headers.get(HISTORY_HEADER)?.to_str().ok()?.split('-');
    let index = parts.next()?.parse().ok()?;
    let entry = u64::from_str_radix(parts.next()?, 16).ok()?;
    let chain = match parts.next() {
        Some(chain) => Some(u64::from_str_radix(chain, 16).ok()?),
        None => None,
    };
    Some((index, Mark { entry, chain }))
}

/// Returns the checksum of an entry.
pub(crate) fn entry_checksum(id: LogId, payload: &[u8]) -> u64 {
    let position = mix(id.leader_id.term ^ mix(id.index));
    if entry_format::is_encoded_by_each_node(payload) {
        return position;
    }
    let length = payload.len() as u64;
    mix(position ^ (length << 32) ^ u64::from(crc32c::crc32c(payload)))
}

fn extend(chain: u64, entry: u64) -> u64 {
    mix(chain.rotate_left(17) ^ entry)
}

/// Mixes the bits of a number, without collisions.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl State {
    /// Returns the index after the last entry.
    fn end(&self) -> u64 {
        self.first + self.marks.len() as u64
    }

    fn last(&self) -> Option<LogId> {
        let term = self.epochs.back()?.term;
        Some(log_id(term, self.end().checked_sub(1)?))
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index >= self.end() {
            return None;
        }
        term_in(self.epochs.iter().rev(), index)
    }

    fn mark_at(&self, index: u64) -> Option<Mark> {
        let offset = index.checked_sub(self.first)?;
        self.marks.get(usize::try_from(offset).ok()?).copied()
    }

    fn mark(&self, id: LogId) -> Option<Mark> {
        let mark = self.mark_at(id.index)?;
        (self.term_at(id.index) == Some(id.leader_id.term)).then_some(mark)
    }

    fn last_chain(&self) -> Option<u64> {
        match self.marks.back() {
            Some(mark) => mark.chain,
            None if self.first == 0 => Some(ORIGIN),
            None => self.before,
        }
    }

    fn append(&mut self, id: LogId, entry: u64) {
        if id.index != self.end() {
            // An empty log may begin anywhere.
            self.replaced = self.replaced.max(self.last());
            self.marks.clear();
            self.epochs.clear();
            (self.first, self.before) = (id.index, None);
        }
        let chain = self.last_chain().map(|chain| extend(chain, entry));
        self.marks.push_back(Mark { entry, chain });
        if self.marks.len() > MARKS_MAX
            && let Some(oldest) = self.marks.pop_front()
        {
            self.first += 1;
            self.before = oldest.chain;
        }
        let term = id.leader_id.term;
        if self.epochs.back().map(|epoch| epoch.term) != Some(term) {
            self.epochs.push_back(Epoch {
                term,
                first_index: id.index,
            });
            if self.epochs.len() > EPOCHS_MAX {
                self.epochs.pop_front();
            }
        }
    }

    fn truncate_from(&mut self, index: u64) {
        self.replaced = self.replaced.max(self.last());
        if index < self.first {
            self.marks.clear();
            (self.first, self.before) = (index, None);
        } else {
            let kept = usize::try_from(index - self.first).unwrap_or(usize::MAX);
            self.marks.truncate(kept);
        }
        while self.epochs.back().is_some_and(|e| e.first_index >= index) {
            self.epochs.pop_back();
        }
    }

    fn begin_after(&mut self, id: LogId, anchor: Option<Anchor>) {
        self.replaced = self.replaced.max(self.last());
        self.marks.clear();
        self.first = id.index + 1;
        let known = anchor.filter(|anchor| anchor.term_at(id.index) == Some(id.leader_id.term));
        match known {
            Some(anchor) => {
                self.before = Some(anchor.chain);
                self.epochs = anchor.epochs.into();
            }
            None => {
                self.before = None;
                self.epochs = VecDeque::from([Epoch {
                    term: id.leader_id.term,
                    first_index: id.index,
                }]);
            }
        }
        let excess = self.epochs.len().saturating_sub(EPOCHS_MAX);
        self.epochs.drain(..excess);
    }

    /// Sets the chain value at `index`, which is unknown, and from it those of all entries after it. The index is that of
    /// a mark, or the one before the first.
    fn learn_chain(&mut self, index: u64, chain: u64) {
        let after = index + 1;
        if after == self.first {
            self.before.get_or_insert(chain);
        } else if let Some(mark) = self.mark_mut(index) {
            mark.chain.get_or_insert(chain);
        }
        let mut chain = chain;
        let skipped = usize::try_from(after.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for mark in self.marks.iter_mut().skip(skipped) {
            chain = extend(chain, mark.entry);
            mark.chain.get_or_insert(chain);
        }
    }

    fn mark_mut(&mut self, index: u64) -> Option<&mut Mark> {
        let offset = index.checked_sub(self.first)?;
        self.marks.get_mut(usize::try_from(offset).ok()?)
    }
}

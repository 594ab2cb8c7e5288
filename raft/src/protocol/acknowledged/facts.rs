//! Facts about acknowledged entries, and their text in headers and on disk.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::http::{HeaderMap, HeaderName};

use crate::types::{LogId, log_id};

/// Header of every message between nodes, and of every answer: what its sender knows to be acknowledged.
pub(crate) const ACKNOWLEDGED_HEADER: HeaderName = HeaderName::from_static("triarch-acknowledged");
/// Maximum number of members in a header. More are not read.
pub(super) const MEMBERS_MAX: usize = 64;

/// Facts about the members' disks, from this node and its peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Last entry that was applied here.
    pub committed: Option<LogId>,
    /// Last entry that each member has acknowledged to be on its disk.
    pub members: BTreeMap<u64, LogId>,
    /// Last entry that each other member says it has applied. In the file only.
    pub others_committed: BTreeMap<u64, LogId>,
    /// Last entry that this node has removed because a leader had others. In the file only.
    pub replaced: Option<LogId>,
    /// Last term of which this node knows the leader, and that leader. Not in the file.
    pub leader: Option<(u64, u64)>,
    /// The entry at the index that an answer is about. In answers only.
    pub entry: Option<LogId>,
}

impl Facts {
    /// Reads facts, and the last entry of a log, from the text of [`Facts::to_text`] or [`Facts::to_file`]. Unknown fields
    /// are skipped; `None` if it is no such text.
    pub(crate) fn from_text(text: &str) -> Option<(Facts, Option<LogId>)> {
        let mut facts = Facts::default();
        let mut last = None;
        for part in text.split_ascii_whitespace() {
            let (name, value) = part.split_once('=')?;
            let (term, index) = value.split_once('.')?;
            let id = log_id(term.parse().ok()?, index.parse().ok()?);
            match name {
                "c" => facts.committed = Some(id),
                "l" => last = Some(id),
                "r" => facts.replaced = Some(id),
                "v" => facts.leader = Some((id.leader_id.term, id.index)),
                "e" => facts.entry = Some(id),
                member => {
                    let (member, known) = match member.strip_suffix('c') {
                        Some(member) => (member, &mut facts.others_committed),
                        None => (member, &mut facts.members),
                    };
                    if let Ok(member) = member.parse()
                        && known.len() < MEMBERS_MAX
                    {
                        known.insert(member, id);
                    }
                }
            }
        }
        Some((facts, last))
    }

    /// Returns the text for other nodes, with the last entry of this node's log.
    pub(crate) fn to_text(&self, last: Option<LogId>) -> String {
        let mut text = String::with_capacity(64);
        put(&mut text, &"c", self.committed);
        put(&mut text, &"l", last);
        let leader = self.leader.map(|(term, id)| log_id(term, id));
        put(&mut text, &"v", leader);
        for (member, id) in self.members.iter().take(MEMBERS_MAX) {
            put(&mut text, member, Some(*id));
        }
        text
    }

    /// Returns what this node keeps on its disk.
    pub(super) fn to_file(&self) -> String {
        let stored = Facts {
            leader: None,
            ..self.clone()
        };
        let mut text = stored.to_text(None);
        put(&mut text, &"r", self.replaced);
        for (member, id) in &self.others_committed {
            put(&mut text, &format_args!("{member}c"), Some(*id));
        }
        text
    }

    /// Takes up that a member has acknowledged an entry. Returns whether that was new.
    pub(super) fn raise(&mut self, member: u64, id: LogId) -> bool {
        let raises = self.members.get(&member).is_none_or(|known| *known < id);
        raises && set(&mut self.members, member, id)
    }
}

/// Sets the entry of a member. Returns whether that changed anything. If there are too many members, the one that is
/// furthest behind gives way: it was probably removed.
pub(super) fn set(known: &mut BTreeMap<u64, LogId>, member: u64, id: LogId) -> bool {
    if known.len() >= MEMBERS_MAX && !known.contains_key(&member) {
        let furthest_behind = known.iter().min_by_key(|(_, id)| **id);
        match furthest_behind.map(|(member, behind)| (*member, *behind)) {
            Some((behind, at)) if at < id => known.remove(&behind),
            _ => return false,
        };
    }
    known.insert(member, id) != Some(id)
}

pub(super) fn put(text: &mut String, name: &dyn std::fmt::Display, id: Option<LogId>) {
    let Some(id) = id else {
        return;
    };
    let space = if text.is_empty() { "" } else { " " };
    let (term, index) = (id.leader_id.term, id.index);
    write!(text, "{space}{name}={term}.{index}").expect("a string takes everything");
}

/// Entries of the asking node that an answer to it is about.
#[derive(Debug, Default)]
pub(crate) struct Question {
    pub(super) committed: Option<LogId>,
    pub(super) last: Option<LogId>,
}

/// Returns what a message with these headers asks.
pub(crate) fn question(headers: &HeaderMap) -> Question {
    let (facts, last) = read(headers).unwrap_or_default();
    Question {
        committed: facts.committed,
        last,
    }
}

/// Returns the facts and the sender's last entry in the headers of a message.
pub(super) fn read(headers: &HeaderMap) -> Option<(Facts, Option<LogId>)> {
    Facts::from_text(headers.get(ACKNOWLEDGED_HEADER)?.to_str().ok()?)
}

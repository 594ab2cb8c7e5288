//! Check of appends and snapshots against this node's history, before consensus takes them.
//!
//! Consensus compares log ids. Of two entries with one id it keeps its own, and what a leader of a later term sends
//! replaces everything. Both would mix two histories, or overrule acknowledged entries, in silence.
//!
//! A message that contradicts this node's history is refused. It does not stop this node, because anybody can send one.
//! This node then asks the member that the message names as its sender. Only the answer stops this node, if it proves
//! that both histories are committed: see [`crate::protocol::acknowledged`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;

use crate::network::transport::{CLOCK_PATH, Lane, Target, Transport};
use crate::protocol::acknowledged::Acknowledged;
use crate::protocol::entry_format;
use crate::protocol::history::{self, Anchor, Conflict, History, Mark};
use crate::protocol::messages::Refusal;
use crate::types::{Config, Member, SnapshotMeta, log_id};

/// Maximum duration of a question to the member that is named as the sender of a contradiction.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval between two questions, and between two log messages about contradictions that are not proven.
const QUESTION_INTERVAL: Duration = Duration::from_millis(200);
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// State of the check.
pub(crate) struct ContradictionCheck {
    history: Arc<History>,
    acknowledged: Arc<Acknowledged>,
    transport: Arc<Transport>,
    /// Time of the last question. Locked while one runs.
    asked_at: tokio::sync::Mutex<Option<Instant>>,
    logged_at: Mutex<Option<Instant>>,
}

impl ContradictionCheck {
    pub(crate) fn new(history: Arc<History>, transport: Arc<Transport>) -> Self {
        ContradictionCheck {
            history,
            acknowledged: Arc::clone(&transport.acknowledged),
            transport,
            asked_at: tokio::sync::Mutex::new(None),
            logged_at: Mutex::new(None),
        }
    }

    /// Refuses everything once this node's history is contradicted.
    pub(crate) fn check_running(&self) -> Result<(), Refusal> {
        match &*self.acknowledged.contradiction().borrow() {
            Some(why) => Err(Refusal::Rule(why.clone())),
            None => Ok(()),
        }
    }

    /// Returns how an append contradicts this node's history.
    pub(crate) fn conflict_with_append(
        &self,
        request: &AppendEntriesRequest<Config>,
        headers: &HeaderMap,
    ) -> Option<Conflict> {
        if mutated!(ContradictionOverruled) {
            return None;
        }
        let committed = self.acknowledged.committed_index();
        let previous = || {
            let id = request.prev_log_id?;
            self.history
                .compare(id, history::mark_in(headers, id), committed)
        };
        let last_index = self.history.last().map(|last| last.index);
        let mut held = request
            .entries
            .iter()
            .take_while(|entry| Some(entry.log_id.index) <= last_index);
        let entries = || {
            held.find_map(|entry| {
                let payload = entry_format::encode_payload(&entry.payload).ok()?;
                let mark = Mark {
                    entry: history::entry_checksum(entry.log_id, &payload),
                    chain: None,
                };
                self.history.compare(entry.log_id, Some(mark), committed)
            })
        };
        let by_committed = self.acknowledged.contradicted_by(headers);
        by_committed.or_else(previous).or_else(entries)
    }

    /// Returns how a snapshot contradicts this node's history.
    pub(crate) fn conflict_with_snapshot(
        &self,
        meta: &SnapshotMeta,
        anchor: Option<&Anchor>,
    ) -> Option<Conflict> {
        let last = meta.last_log_id?;
        if mutated!(ContradictionOverruled) {
            return None;
        }
        let committed = self.acknowledged.committed_index();
        let held = || self.history.compare(last, None, committed);
        // What is committed here is in the snapshot, in the same term.
        let in_snapshot = || {
            let index = committed.filter(|index| *index <= last.index)?;
            let theirs = log_id(anchor?.term_at(index)?, index);
            self.history.compare(theirs, None, committed)
        };
        let chain = || {
            let own = self.history.anchor_at(last)?;
            (own.chain != anchor?.chain).then_some(Conflict {
                own: Some(last),
                theirs: last,
            })
        };
        held().or_else(in_snapshot).or_else(chain)
    }

    /// Returns the refusal of a message that contradicts this node's history. Asks the member that it names as its sender
    /// before, unless it is not known.
    pub(crate) async fn refusal(
        &self,
        from: u64,
        sender: Option<&Member>,
        conflict: Conflict,
    ) -> Refusal {
        if let Some(sender) = sender {
            self.ask(from, sender).await;
        }
        if let Err(proven) = self.check_running() {
            return proven;
        }
        let why = format!(
            "a message of node {from} contradicts this node's history: {conflict}. It is refused. This node goes on, because \
             no answer of node {from} proves that both histories are committed"
        );
        let mut logged_at = self.logged_at.lock();
        if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged_at = Some(Instant::now());
            tracing::warn!(peer = from, "{why}");
        }
        Refusal::Rule(why)
    }

    /// Asks the member `from` for what it has applied. The transport compares the answer with this node's history.
    pub(crate) async fn ask(&self, from: u64, member: &Member) {
        let Ok(mut asked_at) = self.asked_at.try_lock() else {
            return;
        };
        if asked_at.is_some_and(|at| at.elapsed() < QUESTION_INTERVAL) {
            return;
        }
        *asked_at = Some(Instant::now());
        let target = Target::member(from, member);
        let asked = self.transport.call(
            Lane::Control,
            &target,
            CLOCK_PATH,
            |_| {},
            0,
            QUESTION_TIMEOUT,
        );
        // Without an answer nothing is proven.
        let _ = asked.await;
    }
}

//! Sessions: one random id per process, which tells two processes with one identity apart.
//!
//! A copy of a data directory has the id and the incarnation of the original. Two processes that vote and lead as one
//! node could elect two leaders of one term. The node is the process that answers at the address that the cluster knows;
//! any other process with its identity is refused.
//!
//! Every message and every answer carries the sender's session in [`SESSION_HEADER`]. Nodes from before sessions send
//! none, and are not checked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use uuid::Uuid;

/// Header of every message between nodes, and of every answer: the session of its sender.
pub(crate) const SESSION_HEADER: HeaderName = HeaderName::from_static("triarch-session");
/// Header of a refusal whose cause the sender must act on.
pub(crate) const REFUSED_HEADER: HeaderName = HeaderName::from_static("triarch-refused");
/// Value of [`REFUSED_HEADER`] for a process that is not the node it speaks as.
pub(crate) const DUPLICATE: &str = "duplicate";

/// Time after its last answer for which a session counts as alive although its address does not answer.
const SILENT_SESSION_MAX_AGE: Duration = Duration::from_secs(10);
/// Time for which the outcome of a question to a member's address is used again.
const ANSWER_MAX_AGE: Duration = Duration::from_millis(100);
/// The same for a question without an answer.
const SILENCE_MAX_AGE: Duration = Duration::from_secs(2);
/// Time for which a refusal of this process's messages as a duplicate counts.
const REFUSAL_MAX_AGE: Duration = Duration::from_secs(10);
/// Time for which a duplicate must have sent messages, or this process must have been refused as one, before it counts: the
/// first messages of a restarted process may be refused because of the process before.
const DUPLICATE_DELAY: Duration = Duration::from_secs(1);
/// Interval between two log messages about the same duplicate.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Sessions as this process knows them.
#[derive(Debug)]
pub(crate) struct Sessions {
    own: HeaderValue,
    peers: Mutex<BTreeMap<u64, PeerSession>>,
    duplicate_messages: AtomicU64,
    /// Last refusal of this process's messages as those of a duplicate.
    refused: Mutex<Option<DuplicateRefusal>>,
}

#[derive(Debug)]
struct DuplicateRefusal {
    since: Instant,
    at: Instant,
    by: u64,
}

#[derive(Debug, Default)]
struct PeerSession {
    /// Session of the process that last answered at the member's address, and the time of its last answer.
    answering: Option<(Uuid, Instant)>,
    /// Session of messages that is another than the one that answers, and the time of its first message.
    challenger: Option<(Uuid, Instant)>,
    /// Last question to that address without an answer.
    silent_at: Option<Instant>,
    duplicate: Option<Duplicate>,
}

/// Process that is refused because another one answers at the member's address.
#[derive(Debug)]
struct Duplicate {
    session: Uuid,
    since: Instant,
    logged_at: Option<Instant>,
}

/// Verdict on the session of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionVerdict {
    /// The message is from the node.
    Genuine,
    /// Another process answers at the node's address.
    Duplicate,
    /// The node's address must be asked first.
    Unconfirmed,
}

impl PeerSession {
    /// Returns the time of the first message of this session. Sessions that follow each other quickly share one time, so
    /// that they cause one question to the member's address.
    fn challenged_at(&mut self, session: Uuid) -> Instant {
        match self.challenger {
            Some((known, at)) if known == session || at.elapsed() < ANSWER_MAX_AGE => at,
            Some(_) | None => self.challenger.insert((session, Instant::now())).1,
        }
    }
}

impl Sessions {
    pub(crate) fn new() -> Self {
        let own = Uuid::new_v4().to_string();
        Sessions {
            own: HeaderValue::from_str(&own).expect("a UUID is visible ASCII"),
            peers: Mutex::default(),
            duplicate_messages: AtomicU64::new(0),
            refused: Mutex::default(),
        }
    }

    /// Returns the value of [`SESSION_HEADER`] for messages and answers of this process.
    pub(crate) fn own(&self) -> HeaderValue {
        self.own.clone()
    }

    /// Records the session that answered at the address of member `id`.
    pub(crate) fn record_answer(&self, id: u64, headers: &HeaderMap) {
        let Some(session) = session_of(headers) else {
            return;
        };
        let mut peers = self.peers.lock();
        let peer = peers.entry(id).or_default();
        peer.answering = Some((session, Instant::now()));
        peer.silent_at = None;
    }

    /// Records that the address of member `id` was asked and did not answer.
    pub(crate) fn record_silence(&self, id: u64) {
        self.peers.lock().entry(id).or_default().silent_at = Some(Instant::now());
    }

    /// Judges a message of member `id` by its session.
    pub(crate) fn judge(&self, id: u64, headers: &HeaderMap) -> SessionVerdict {
        let Some(session) = session_of(headers) else {
            return SessionVerdict::Genuine;
        };
        if mutated!(CopiedNodeHeard) {
            return SessionVerdict::Genuine;
        }
        let mut peers = self.peers.lock();
        let peer = peers.entry(id).or_default();
        let silent = peer
            .silent_at
            .is_some_and(|at| at.elapsed() < SILENCE_MAX_AGE);
        let answered_at = match peer.answering {
            Some((current, _)) if current == session => return SessionVerdict::Genuine,
            Some((_, at)) => Some((at, peer.challenged_at(session))),
            None => None,
        };
        match answered_at {
            // An answer from before the first message of this session may be of a process that has ended since.
            Some((at, challenged_at)) if at.elapsed() < ANSWER_MAX_AGE && at > challenged_at => {
                SessionVerdict::Duplicate
            }
            Some((at, _)) if silent && at.elapsed() < SILENT_SESSION_MAX_AGE => {
                SessionVerdict::Duplicate
            }
            // No process answers at that address. Perhaps this node cannot reach it, so the message is accepted.
            Some(_) | None if silent => SessionVerdict::Genuine,
            Some(_) | None => SessionVerdict::Unconfirmed,
        }
    }

    /// Counts and logs a refused message of a duplicate of member `id` at `addr`.
    pub(crate) fn record_duplicate(&self, id: u64, addr: &str, headers: &HeaderMap) {
        self.duplicate_messages.fetch_add(1, Ordering::Relaxed);
        let Some(session) = session_of(headers) else {
            return;
        };
        let mut peers = self.peers.lock();
        let peer = peers.entry(id).or_default();
        let known = peer.duplicate.take().filter(|one| one.session == session);
        let duplicate = peer.duplicate.insert(known.unwrap_or(Duplicate {
            session,
            since: Instant::now(),
            logged_at: None,
        }));
        // A message of a process that has just ended may arrive late.
        let lasts = duplicate.since.elapsed() >= DUPLICATE_DELAY;
        let logged = duplicate
            .logged_at
            .is_some_and(|at| at.elapsed() < LOG_INTERVAL);
        if logged || !lasts {
            return;
        }
        duplicate.logged_at = Some(Instant::now());
        drop(peers);
        tracing::error!(
            peer = id,
            %session,
            "two processes run as node {id}: one answers at {addr}, another sends messages and is refused. It runs on a copy \
             of the data directory: stop it, and delete the copy"
        );
    }

    /// Returns the number of messages refused as those of a duplicate.
    pub(crate) fn duplicate_messages(&self) -> u64 {
        self.duplicate_messages.load(Ordering::Relaxed)
    }

    /// Records that node `by` refuses this process as a duplicate of itself.
    pub(crate) fn record_refusal(&self, by: u64) {
        let mut refused = self.refused.lock();
        let now = Instant::now();
        let known = refused.take();
        let since = known
            .filter(|refusal| refusal.at.elapsed() < REFUSAL_MAX_AGE)
            .map_or(now, |refusal| refusal.since);
        *refused = Some(DuplicateRefusal { since, at: now, by });
    }

    /// Records that node `by` accepts messages of this process.
    pub(crate) fn record_acceptance(&self, by: u64) {
        let mut refused = self.refused.lock();
        if refused.as_ref().is_some_and(|refusal| refusal.by == by) {
            *refused = None;
        }
    }

    /// Returns a node that has refused this process as a duplicate for a while. `None` if no node does.
    pub(crate) fn refused_by(&self) -> Option<u64> {
        let refused = self.refused.lock();
        let refusal = refused.as_ref()?;
        let lasts = refusal.at.duration_since(refusal.since) >= DUPLICATE_DELAY;
        (lasts && refusal.at.elapsed() < REFUSAL_MAX_AGE).then_some(refusal.by)
    }
}

fn session_of(headers: &HeaderMap) -> Option<Uuid> {
    headers.get(SESSION_HEADER)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(session: u128) -> HeaderMap {
        let value = Uuid::from_u128(session).to_string();
        HeaderMap::from_iter([(SESSION_HEADER, HeaderValue::from_str(&value).unwrap())])
    }

    #[test]
    fn only_the_session_that_answers_at_the_address_is_genuine() {
        let sessions = Sessions::new();
        assert_eq!(sessions.judge(2, &headers(1)), SessionVerdict::Unconfirmed);
        sessions.record_answer(2, &headers(1));
        assert_eq!(sessions.judge(2, &headers(1)), SessionVerdict::Genuine);
        // The process that has answered may have ended a moment ago.
        assert_eq!(sessions.judge(2, &headers(9)), SessionVerdict::Unconfirmed);
        sessions.record_answer(2, &headers(1));
        assert_eq!(sessions.judge(2, &headers(9)), SessionVerdict::Duplicate);
        assert_eq!(sessions.judge(3, &headers(9)), SessionVerdict::Unconfirmed);
        // It has restarted, and its new session answers.
        sessions.record_answer(2, &headers(9));
        assert_eq!(sessions.judge(2, &headers(9)), SessionVerdict::Genuine);
        assert_eq!(sessions.judge(2, &headers(1)), SessionVerdict::Duplicate);
        // Many sessions cause one question, not one each.
        assert_eq!(sessions.judge(2, &headers(7)), SessionVerdict::Duplicate);
    }

    #[test]
    fn a_silent_address_protects_a_session_that_answered_a_moment_ago_only() {
        let sessions = Sessions::new();
        sessions.record_silence(2);
        assert_eq!(sessions.judge(2, &headers(1)), SessionVerdict::Genuine);
        sessions.record_answer(2, &headers(1));
        std::thread::sleep(ANSWER_MAX_AGE);
        assert_eq!(sessions.judge(2, &headers(9)), SessionVerdict::Unconfirmed);
        sessions.record_silence(2);
        assert_eq!(sessions.judge(2, &headers(9)), SessionVerdict::Duplicate);
    }

    #[test]
    fn a_message_without_a_session_is_of_an_older_version_and_passes() {
        let sessions = Sessions::new();
        sessions.record_answer(2, &headers(1));
        assert_eq!(
            sessions.judge(2, &HeaderMap::new()),
            SessionVerdict::Genuine
        );
        let wrong = HeaderMap::from_iter([(SESSION_HEADER, HeaderValue::from_static("none"))]);
        assert_eq!(sessions.judge(2, &wrong), SessionVerdict::Genuine);
    }

    #[test]
    fn a_refusal_as_a_duplicate_counts_once_it_lasts_and_until_the_same_node_accepts() {
        let sessions = Sessions::new();
        assert_eq!(sessions.refused_by(), None);
        sessions.record_refusal(3);
        assert_eq!(sessions.refused_by(), None, "a restart looks the same");
        std::thread::sleep(DUPLICATE_DELAY);
        sessions.record_refusal(3);
        sessions.record_acceptance(2);
        assert_eq!(sessions.refused_by(), Some(3));
        sessions.record_acceptance(3);
        assert_eq!(sessions.refused_by(), None);
    }
}

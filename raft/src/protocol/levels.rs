//! Version gate: the level of this cluster, the level that this node understands, and the announcements of its peers.
//!
//! # Invariants
//!
//! - The level in effect follows from applied entries and snapshots alone, and only rises.
//! - Announcements are remembered for operators. A raise and an addition ask the node at that moment instead, because a
//!   node may have been restarted with another version since.
//! - A level that this node has proposed counts for additions at once, even while the outcome is unknown.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::RwLock;

use crate::error::StartError;
use crate::level::{Level, NodeVersion};
use crate::protocol::entry_format::DecodeError;

/// Header of every message between nodes, and of every answer: the version of its sender.
pub(crate) const VERSION_HEADER: HeaderName = HeaderName::from_static("triarch-version");
/// Maximum length of a program's version in an announcement. A longer one is not kept.
const PROGRAM_BYTES_MAX: usize = 64;

/// Levels as this node knows them.
#[derive(Debug)]
pub(crate) struct Levels {
    own: NodeVersion,
    announcement: HeaderValue,
    in_effect: AtomicU32,
    proposed: AtomicU32,
    peers: RwLock<BTreeMap<u64, NodeVersion>>,
    founded_at: OnceLock<Instant>,
}

impl Levels {
    /// Creates the levels of a node with an empty log.
    ///
    /// # Errors
    ///
    /// Fails if the program's version cannot be announced.
    pub(crate) fn new(program: &str, understood: Level) -> Result<Self, StartError> {
        let announcement = format!("{program}; level={understood}");
        let announcement = HeaderValue::from_str(&announcement).map_err(|e| {
            StartError::Config(format!("the version {program:?} cannot be announced: {e}"))
        })?;
        Ok(Levels {
            own: NodeVersion {
                program: Some(program.to_owned()),
                level: understood,
            },
            announcement,
            in_effect: AtomicU32::new(Level::ONE.number()),
            proposed: AtomicU32::new(Level::ONE.number()),
            peers: RwLock::default(),
            founded_at: OnceLock::new(),
        })
    }

    /// Returns the highest level that this node understands.
    pub(crate) fn understood(&self) -> Level {
        self.own.level
    }

    /// Returns the value of [`VERSION_HEADER`] for messages of this node. A node of level 1 announces nothing.
    pub(crate) fn announcement(&self) -> Option<HeaderValue> {
        (self.own.level > Level::ONE).then(|| self.announcement.clone())
    }

    /// Returns the level of the cluster, as applied here.
    pub(crate) fn in_effect(&self) -> Level {
        level_of(&self.in_effect)
    }

    /// Records a level that an applied entry or a snapshot brought.
    pub(crate) fn apply(&self, level: Level) {
        self.in_effect.fetch_max(level.number(), Ordering::SeqCst);
    }

    /// Records a level that this node is about to propose.
    pub(crate) fn propose(&self, level: Level) {
        self.proposed.fetch_max(level.number(), Ordering::SeqCst);
    }

    /// Returns the level that a node must understand to be added.
    pub(crate) fn required(&self) -> Level {
        self.in_effect().max(level_of(&self.proposed))
    }

    /// Checks that this node understands `level`, which an entry or a snapshot brings.
    pub(crate) fn check_understood(
        &self,
        what: &'static str,
        level: Level,
    ) -> Result<(), DecodeError> {
        let understood = self.understood();
        if level <= understood {
            return Ok(());
        }
        Err(DecodeError::new(
            what,
            format!(
                "it is of level {level} and this program understands at most level {understood}: run the version that the \
                 rest of the cluster runs"
            ),
        ))
    }

    /// Returns why a message with these headers is refused, if its sender understands less than the cluster's level.
    pub(crate) fn refusal_of_sender(&self, headers: &HeaderMap) -> Option<String> {
        let level = self.in_effect();
        // The sender is mostly of this node's own version, and then nothing needs to be parsed.
        if level == Level::ONE || headers.get(VERSION_HEADER) == Some(&self.announcement) {
            return None;
        }
        let sender = announced(headers);
        (sender.level < level).then(|| {
            format!(
                "this cluster is at level {level}, and the sender runs {sender}: upgrade the sender to the version that the \
                 rest of the cluster runs"
            )
        })
    }

    /// Records the announcement of a peer.
    pub(crate) fn record_peer(&self, id: u64, version: &NodeVersion) {
        if self.peers.read().get(&id) != Some(version) {
            self.peers.write().insert(id, version.clone());
        }
    }

    /// Returns the last announcement of a node. `None` for one that has not answered yet.
    pub(crate) fn version_of(&self, id: u64, own_id: u64) -> Option<NodeVersion> {
        if id == own_id {
            return Some(self.own.clone());
        }
        self.peers.read().get(&id).cloned()
    }

    /// Records that this process founds its cluster.
    pub(crate) fn record_founding(&self) {
        let _ = self.founded_at.set(Instant::now());
    }

    /// Returns whether this process founded its cluster less than `window` ago.
    pub(crate) fn founded_within(&self, window: Duration) -> bool {
        self.founded_at
            .get()
            .is_some_and(|founded_at| founded_at.elapsed() < window)
    }
}

fn level_of(number: &AtomicU32) -> Level {
    Level::new(number.load(Ordering::SeqCst)).unwrap_or(Level::ONE)
}

/// Returns the version that the sender of these headers announces.
pub(crate) fn announced(headers: &HeaderMap) -> NodeVersion {
    let parsed = headers.get(VERSION_HEADER).and_then(|value| {
        let (program, level) = value.to_str().ok()?.split_once("; level=")?;
        let level = Level::new(level.parse().ok()?)?;
        let program = (program.len() <= PROGRAM_BYTES_MAX).then(|| program.to_owned());
        Some(NodeVersion { program, level })
    });
    parsed.unwrap_or(NodeVersion::UNANNOUNCED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(VERSION_HEADER, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn an_announcement_reads_back_and_anything_else_is_level_1() {
        let levels = Levels::new("1.2.3", Level::TWO).unwrap();
        let sent = levels.announcement().unwrap();
        assert_eq!(sent, "1.2.3; level=2");
        let read = announced(&HeaderMap::from_iter([(VERSION_HEADER, sent)]));
        assert_eq!(Some(read), levels.version_of(1, 1));
        for other in [
            "",
            "1.2.3",
            "1.2.3; level=0",
            "x; level=-1",
            "x; level=99999999999",
        ] {
            assert_eq!(
                announced(&headers(other)),
                NodeVersion::UNANNOUNCED,
                "{other}"
            );
        }
        assert_eq!(announced(&HeaderMap::new()), NodeVersion::UNANNOUNCED);
        let long = announced(&headers(&format!("{}; level=7", "v".repeat(65))));
        assert_eq!((long.program, long.level.number()), (None, 7));
        assert_eq!(Levels::new("1", Level::ONE).unwrap().announcement(), None);
    }

    #[test]
    fn a_level_only_rises_and_a_proposed_one_is_required_of_new_nodes() {
        let levels = Levels::new("1", Level::TWO).unwrap();
        assert_eq!(
            (levels.in_effect(), levels.required()),
            (Level::ONE, Level::ONE)
        );
        levels.propose(Level::TWO);
        assert_eq!(
            (levels.in_effect(), levels.required()),
            (Level::ONE, Level::TWO)
        );
        assert_eq!(levels.refusal_of_sender(&HeaderMap::new()), None);
        levels.apply(Level::TWO);
        levels.apply(Level::ONE);
        assert_eq!(levels.in_effect(), Level::TWO);
        let refusal = levels.refusal_of_sender(&HeaderMap::new()).unwrap();
        assert!(refusal.contains("level 2") && refusal.contains("upgrade the sender"));
        assert_eq!(levels.refusal_of_sender(&headers("2; level=2")), None);
        assert!(levels.check_understood("it", Level::TWO).is_ok());
        assert!(
            levels
                .check_understood("it", Level::new(3).unwrap())
                .is_err()
        );
    }
}

//! Tasks that share a concurrency key: at most so many of them run at once.
//!
//! Of the key's ready tasks only as many as may still start are *shown* to the scheduler, the first ones by rank. The
//! others stand in no line, so they are in nobody's way, however many they are. Tasks of one key thus start in the order of
//! their ranks, whatever their queues and classes.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::index::ready_queue::{Rank, Stand};

/// One key's tasks. Derived from them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct KeyIndex {
    /// How many run.
    pub running: u32,
    /// The limits of those that are ready or run, with how many say so. The smallest counts.
    limits: BTreeMap<u32, u32>,
    /// The ready ones.
    ready: BTreeMap<Rank, Stand>,
    /// How many of these are shown, and the last one of them.
    shown: u32,
    last_shown: Option<Rank>,
}

/// What changes in the lines.
#[derive(Debug)]
pub(crate) enum Shown {
    Comes(Stand),
    Goes(Stand),
}

impl KeyIndex {
    /// How many tasks may run at once.
    pub fn limit(&self) -> u32 {
        self.limits.keys().next().copied().unwrap_or(u32::MAX)
    }

    /// How many more tasks may start.
    pub fn room(&self) -> u32 {
        self.limit().saturating_sub(self.running)
    }

    /// Whether this ready task is shown.
    pub fn shows(&self, rank: Rank) -> bool {
        self.last_shown.is_some_and(|last| rank <= last)
    }

    /// How many tasks of the key are ready before this rank.
    pub fn ready_before(&self, rank: Rank) -> usize {
        self.ready.range(..rank).count()
    }

    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// A task has become ready.
    pub fn add_ready(&mut self, stand: Stand, limit: u32) -> Vec<Shown> {
        let mut changes = Vec::new();
        if self.shows(stand.rank) {
            self.shown += 1;
            changes.push(Shown::Comes(stand.clone()));
        }
        self.ready.insert(stand.rank, stand);
        *self.limits.entry(limit).or_default() += 1;
        self.adjust(changes)
    }

    /// A task is not ready any more.
    pub fn remove_ready(&mut self, rank: Rank, limit: u32) -> Vec<Shown> {
        let stand = self.ready.remove(&rank).expect("a ready task is indexed");
        let mut changes = Vec::new();
        if self.shows(rank) {
            self.shown -= 1;
            if self.last_shown == Some(rank) {
                self.last_shown = self.before(rank);
            }
            changes.push(Shown::Goes(stand));
        }
        self.drop_limit(limit);
        self.adjust(changes)
    }

    /// A task has started.
    pub fn add_running(&mut self, limit: u32) -> Vec<Shown> {
        self.running += 1;
        *self.limits.entry(limit).or_default() += 1;
        self.adjust(Vec::new())
    }

    /// A task runs no more.
    pub fn remove_running(&mut self, limit: u32) -> Vec<Shown> {
        self.running -= 1;
        self.drop_limit(limit);
        self.adjust(Vec::new())
    }

    fn drop_limit(&mut self, limit: u32) {
        let count = self.limits.get_mut(&limit).expect("counted when it came");
        *count -= 1;
        if *count == 0 {
            self.limits.remove(&limit);
        }
    }

    fn before(&self, rank: Rank) -> Option<Rank> {
        self.ready.range(..rank).next_back().map(|(&rank, _)| rank)
    }

    /// Shows as many as may start.
    fn adjust(&mut self, mut changes: Vec<Shown>) -> Vec<Shown> {
        while self.shown > self.room()
            && let Some(last) = self.last_shown
        {
            changes.push(Shown::Goes(self.ready[&last].clone()));
            self.shown -= 1;
            self.last_shown = self.before(last);
        }
        while self.shown < self.room() {
            let after = self.last_shown.map_or(Bound::Unbounded, Bound::Excluded);
            let Some((&next, stand)) = self.ready.range((after, Bound::Unbounded)).next() else {
                break;
            };
            changes.push(Shown::Comes(stand.clone()));
            self.shown += 1;
            self.last_shown = Some(next);
        }
        changes
    }
}

//! Set of all node ids this cluster has ever used, those of removed nodes included. No id is used twice.
//!
//! An operator who finds "node 2" in an old log, a dashboard or an alert must not have to ask which one. The ids are
//! gathered from the membership entries as they are applied, so every node arrives at the same set. A snapshot carries
//! the set along, because it replaces the entries before it. The set grows by one for each node that was ever added.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::RwLock;

/// Handle of the set. Cheap to clone; all clones see the same ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsedNodeIds {
    ids: Arc<RwLock<BTreeSet<u64>>>,
}

impl UsedNodeIds {
    pub(crate) fn extend(&self, ids: impl IntoIterator<Item = u64>) {
        self.ids.write().extend(ids);
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.ids.read().contains(&id)
    }

    pub(crate) fn get(&self) -> BTreeSet<u64> {
        self.ids.read().clone()
    }

    /// Returns a free id, above all used ones.
    pub(crate) fn next_free(&self) -> u64 {
        self.ids
            .read()
            .last()
            .map_or(1, |highest| highest.saturating_add(1))
    }
}

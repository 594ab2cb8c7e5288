//! Set of all node ids this cluster has ever used, those of removed nodes included. No id is used twice.
//!
//! An operator who finds "node 2" in an old log, a dashboard or an alert must not have to ask which one. The ids are
//! gathered from the membership entries as they are applied, so every node arrives at the same set. A snapshot carries
//! the set along, because it replaces the entries before it. The set grows by one for each node that was ever added.
//!
//! An id that was used and is in no later membership belongs to a removed node, for ever. Only applied entries count:
//! an entry that is not committed may still be replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::RwLock;

/// Handle of the set. Cheap to clone; all clones see the same ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsedNodeIds {
    state: Arc<RwLock<State>>,
}

#[derive(Debug, Default)]
struct State {
    used: BTreeSet<u64>,
    /// Removed nodes, and the index of the first applied membership known here that does not have them.
    removed: BTreeMap<u64, u64>,
}

impl UsedNodeIds {
    /// Records the members after the membership entry at `index`, and ids used before, if they come from a snapshot.
    pub(crate) fn apply(
        &self,
        index: u64,
        members: impl IntoIterator<Item = u64>,
        used_before: impl IntoIterator<Item = u64>,
    ) {
        let members: BTreeSet<u64> = members.into_iter().collect();
        let mut state = self.state.write();
        let State { used, removed } = &mut *state;
        used.extend(&members);
        used.extend(used_before);
        for id in used.difference(&members) {
            removed.entry(*id).or_insert(index);
        }
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.state.read().used.contains(&id)
    }

    /// Returns the index of the membership entry by which a node was removed, or of a later one. `None` for a member,
    /// and for an id that was never used.
    pub(crate) fn removed_at(&self, id: u64) -> Option<u64> {
        self.state.read().removed.get(&id).copied()
    }

    pub(crate) fn get(&self) -> BTreeSet<u64> {
        self.state.read().used.clone()
    }

    /// Returns a free id, above all used ones.
    pub(crate) fn next_free(&self) -> u64 {
        self.state
            .read()
            .used
            .last()
            .map_or(1, |highest| highest.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_removed_at_the_first_membership_without_it() {
        let ids = UsedNodeIds::default();
        ids.apply(1, [1, 2, 3], []);
        assert_eq!((ids.removed_at(3), ids.removed_at(4)), (None, None));
        ids.apply(5, [1, 2, 3, 4], []);
        ids.apply(9, [1, 2, 4], []);
        ids.apply(12, [1, 2], []);
        assert_eq!((ids.removed_at(3), ids.removed_at(4)), (Some(9), Some(12)));
        assert_eq!(ids.next_free(), 5);

        let restored = UsedNodeIds::default();
        restored.apply(12, [1, 2], ids.get());
        assert_eq!(restored.removed_at(3), Some(12));
        assert_eq!(restored.removed_at(1), None);
        assert_eq!(restored.get(), ids.get());
    }
}

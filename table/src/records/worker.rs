//! Worker records: registrations and profiles. Heartbeats and loads are not here: the leader keeps them in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::records::paged::Record;
use crate::records::task::Class;
use crate::types::ids::{TaskId, WorkerId};
use crate::types::state::WorkerState;

/// One registration of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// Name of the worker; unique among present workers.
    pub name: Arc<str>,
    /// Its queues, kinds, labels and resources; shared by all workers that are alike.
    pub profile: Arc<Profile>,
    /// Maximum number of concurrent attempts.
    pub slots: u32,
    /// Time at which it registered, in Unix ms.
    pub registered_ms: u64,
    /// Its state with the data of that state.
    pub life: WorkerLife,
    /// Tasks that failed on it since its last success.
    pub streak: FailureStreak,
}

/// Properties that decide which tasks a worker may take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Profile {
    /// Queues from which the worker takes tasks.
    pub queues: BTreeSet<String>,
    /// Kinds of tasks that the worker runs.
    pub kinds: BTreeSet<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its resources.
    pub resources: BTreeMap<String, u64>,
}

/// A worker's state together with the data that this state owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerLife {
    /// See [`WorkerState::Live`].
    Live,
    /// See [`WorkerState::Draining`].
    Draining,
    /// See [`WorkerState::Lost`].
    Lost {
        /// Time at which it was lost, in Unix ms.
        at_ms: u64,
    },
    /// See [`WorkerState::Left`].
    Left {
        /// Time at which it left, in Unix ms.
        at_ms: u64,
    },
    /// See [`WorkerState::Paused`].
    Paused,
    /// See [`WorkerState::Quarantined`].
    Quarantined {
        /// Time at which its probation begins, in Unix ms.
        until_ms: u64,
        /// The number of failed probations.
        round: u32,
    },
    /// See [`WorkerState::Probation`].
    Probation {
        /// The number of failed probations before this one.
        round: u32,
    },
}

/// Tasks that failed on a worker since its last success. At most as many as a quarantine needs: the first and the
/// latest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureStreak(pub(crate) Vec<FailedTask>);

/// A task that failed on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailedTask {
    pub(crate) task: TaskId,
    pub(crate) queue: Arc<str>,
    /// The number of its queue's tasks that had succeeded by then.
    pub(crate) succeeded: u64,
}

impl FailureStreak {
    /// Returns the number of tasks in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no failure counts against the worker since its last success.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Worker {
    /// Returns its state without the data.
    pub fn state(&self) -> WorkerState {
        match self.life {
            WorkerLife::Live => WorkerState::Live,
            WorkerLife::Draining => WorkerState::Draining,
            WorkerLife::Lost { .. } => WorkerState::Lost,
            WorkerLife::Left { .. } => WorkerState::Left,
            WorkerLife::Paused => WorkerState::Paused,
            WorkerLife::Quarantined { .. } => WorkerState::Quarantined,
            WorkerLife::Probation { .. } => WorkerState::Probation,
        }
    }

    /// Returns how many tasks it may run at once in its current state.
    pub(crate) fn usable_slots(&self) -> u32 {
        match self.life {
            WorkerLife::Live => self.slots,
            WorkerLife::Probation { .. } => 1,
            WorkerLife::Paused
            | WorkerLife::Quarantined { .. }
            | WorkerLife::Draining
            | WorkerLife::Lost { .. }
            | WorkerLife::Left { .. } => 0,
        }
    }

    /// Returns when it was lost or left, in Unix ms.
    pub fn gone_ms(&self) -> Option<u64> {
        match self.life {
            WorkerLife::Live
            | WorkerLife::Draining
            | WorkerLife::Paused
            | WorkerLife::Quarantined { .. }
            | WorkerLife::Probation { .. } => None,
            WorkerLife::Lost { at_ms } | WorkerLife::Left { at_ms } => Some(at_ms),
        }
    }
}

impl Profile {
    /// Returns whether an idle worker of this profile could take tasks of this class.
    pub fn takes(&self, class: &Class) -> bool {
        let requires = &class.requires;
        self.queues.contains(&*class.queue)
            && self.kinds.contains(&*class.kind)
            && requires
                .labels
                .iter()
                .all(|(name, value)| self.labels.get(name) == Some(value))
            && self.has_capacity(&BTreeMap::new(), &requires.resources)
    }

    /// Returns whether it has these amounts in addition to those used already.
    pub(crate) fn has_capacity(
        &self,
        used: &BTreeMap<String, u64>,
        needed: &BTreeMap<String, u64>,
    ) -> bool {
        needed.iter().all(|(name, &amount)| {
            let total = self.resources.get(name).copied().unwrap_or(0);
            let used = used.get(name).copied().unwrap_or(0);
            amount <= total.saturating_sub(used)
        })
    }
}

impl Record for Worker {
    type Key = WorkerId;
    fn key(&self) -> WorkerId {
        self.id
    }
}

//! Dependencies of submitted tasks and jobs, with their conditions.
//!
//! Clusters of level 1 know dependencies between tasks without conditions only, so the format of a task has the keys alone.
//! The rest travels after the command, see [`codec`](super::codec).

use serde::{Deserialize, Serialize};

use crate::types::ids::JobId;

/// Dependency of a submitted task on another one of its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dependency {
    /// Key of the other task.
    pub key: String,
    /// How the other task must end.
    #[serde(skip)]
    pub when: DependencyCondition,
}

impl From<&str> for Dependency {
    fn from(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            when: DependencyCondition::Succeeded,
        }
    }
}

/// Condition on the end of a dependency: how it must end for its dependent to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum DependencyCondition {
    /// It succeeded.
    #[default]
    Succeeded,
    /// It failed or expired, or was cancelled because another task had.
    Failed,
    /// It ended in any way.
    Ended,
}

impl DependencyCondition {
    /// All conditions.
    pub const ALL: [DependencyCondition; 3] = [
        DependencyCondition::Succeeded,
        DependencyCondition::Failed,
        DependencyCondition::Ended,
    ];

    /// Returns the word used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            DependencyCondition::Succeeded => "succeeded",
            DependencyCondition::Failed => "failed",
            DependencyCondition::Ended => "ended",
        }
    }
}

/// Dependency of a submitted job on another job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterJob {
    /// The other job.
    pub job: JobId,
    /// How it must end.
    pub when: DependencyCondition,
}

/// A condition that is not the default, and its place in a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlacedCondition {
    /// Position of the task.
    pub task: u32,
    /// Position in its `after`.
    pub after: u32,
    /// The condition.
    pub when: DependencyCondition,
}

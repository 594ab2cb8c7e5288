//! Parts of submissions that travel after the command, because level 1 does not know them.

use serde::{Deserialize, Serialize};

use crate::command::dependency::PlacedCondition;
use crate::command::{AfterJob, Command, DependencyCondition, NewTask};

/// What a command has that level 1 does not know: it travels after the command.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaterParts {
    /// Conditions of dependencies that are not the default.
    conditions: Vec<PlacedCondition>,
    /// Jobs that the submitted job comes after.
    after_jobs: Vec<AfterJob>,
}

impl LaterParts {
    /// Returns those of a command.
    pub fn of(command: &Command) -> Self {
        Self {
            conditions: conditions_of(command.tasks()),
            after_jobs: match command {
                Command::SubmitJob(submit) => submit.after_jobs.clone(),
                // The table refuses it, and must see it for that.
                Command::PutSchedule(put) => put.job.after_jobs.clone(),
                _ => Vec::new(),
            },
        }
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Puts them into the command that they belong to. Returns whether they fit.
    pub fn put_into(self, command: &mut Command) -> bool {
        if !put_conditions(command.tasks_mut(), &self.conditions) {
            return false;
        }
        match command {
            Command::SubmitJob(submit) => submit.after_jobs = self.after_jobs,
            Command::PutSchedule(put) => put.job.after_jobs = self.after_jobs,
            _ if self.after_jobs.is_empty() => {}
            _ => return false,
        }
        true
    }
}

/// Returns the conditions of these tasks that are not the default, in order.
pub(crate) fn conditions_of(tasks: &[NewTask]) -> Vec<PlacedCondition> {
    let mut conditions = Vec::new();
    for (task, at) in tasks.iter().zip(0..) {
        for (dependency, after) in task.after.iter().zip(0..) {
            if dependency.when != DependencyCondition::default() {
                conditions.push(PlacedCondition {
                    task: at,
                    after,
                    when: dependency.when,
                });
            }
        }
    }
    conditions
}

/// Puts conditions back into their places. Returns whether they are conditions of these tasks, as [`conditions_of`]
/// returns them.
pub(crate) fn put_conditions(tasks: &mut [NewTask], conditions: &[PlacedCondition]) -> bool {
    for condition in conditions {
        let task = tasks.get_mut(condition.task as usize);
        match task.and_then(|task| task.after.get_mut(condition.after as usize)) {
            Some(dependency) => dependency.when = condition.when,
            None => return false,
        }
    }
    conditions_of(tasks) == conditions
}

impl Command {
    /// Returns the submitted tasks of the command.
    pub(crate) fn tasks(&self) -> &[NewTask] {
        match self {
            Command::SubmitJob(submit) => &submit.tasks,
            Command::StagePart(stage) => &stage.tasks,
            Command::PutSchedule(put) => &put.job.tasks,
            _ => &[],
        }
    }

    /// Returns the submitted tasks of the command.
    pub(crate) fn tasks_mut(&mut self) -> &mut [NewTask] {
        match self {
            Command::SubmitJob(submit) => &mut submit.tasks,
            Command::StagePart(stage) => &mut stage.tasks,
            Command::PutSchedule(put) => &mut put.job.tasks,
            _ => &mut [],
        }
    }
}

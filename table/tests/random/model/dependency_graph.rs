//! Model of submissions: which tasks are deduplicated, and which depend on which.

use triarch_table::TaskId;
use triarch_table::command::reply::Refusal;
use triarch_table::command::{DependencyCondition, NewTask, OnDuplicate};

use super::{Model, ModelTask, invalid};

/// Resolution of a submitted task: it becomes a new task, or an existing one replaces it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Resolution {
    New(TaskId),
    Deduplicated(TaskId),
}

/// A resolved task with its dependencies.
pub(super) type Resolved = (Resolution, Vec<(TaskId, DependencyCondition)>);

impl Model {
    pub(super) fn dependency_graph(&self, tasks: &[NewTask]) -> Result<Vec<Resolved>, Refusal> {
        let resolutions = self.by_unique_keys(tasks)?;
        self.check_order(tasks)?;
        let find = |key: &String| tasks.iter().position(|task| task.key.as_ref() == Some(key));
        let mut graph = Vec::new();
        for (at, task) in tasks.iter().enumerate() {
            let mut after = Vec::new();
            if let Resolution::New(_) = resolutions[at] {
                for dependency in &task.after {
                    let Some(first) = find(&dependency.key) else {
                        continue;
                    };
                    match resolutions[first] {
                        Resolution::New(id) => after.push((id, dependency.when)),
                        Resolution::Deduplicated(_) => {
                            return Err(invalid(format!("tasks[{at}].after")));
                        }
                    }
                }
            }
            after.sort();
            graph.push((resolutions[at], after));
        }
        Ok(graph)
    }

    /// Checks that all dependencies exist and form no cycle.
    pub(super) fn check_order(&self, tasks: &[NewTask]) -> Result<(), Refusal> {
        let edges: usize = tasks.iter().map(|task| task.after.len()).sum();
        if edges > self.limits.dependencies_per_job_max as usize {
            return Err(invalid("tasks"));
        }
        let find = |key: &String| tasks.iter().position(|task| task.key.as_ref() == Some(key));
        for (at, task) in tasks.iter().enumerate() {
            let keys = || task.after.iter().map(|dependency| &dependency.key);
            let unknown_or_itself = |key| find(key).is_none_or(|first| first == at);
            let twice = |key: &String| keys().filter(|other| *other == key).count() > 1;
            if keys().any(|key| unknown_or_itself(key) || twice(key)) {
                return Err(invalid(format!("tasks[{at}].after")));
            }
        }
        if !all_can_start(tasks) {
            return Err(invalid(IN_A_CYCLE));
        }
        Ok(())
    }

    fn by_unique_keys(&self, tasks: &[NewTask]) -> Result<Vec<Resolution>, Refusal> {
        let mut found: Vec<Resolution> = Vec::new();
        let mut made = self.made[1];
        for (at, task) in tasks.iter().enumerate() {
            if let Some(unique) = &task.unique {
                let known = self.holder_of(&unique.key);
                let earlier = (0..at).find(|&at| {
                    let same = tasks[at].unique.as_ref().map(|unique| &unique.key);
                    same == Some(&unique.key) && matches!(found[at], Resolution::New(_))
                });
                let earlier = earlier.map(|at| match found[at] {
                    Resolution::New(id) | Resolution::Deduplicated(id) => id,
                });
                match (known.or(earlier), unique.on_duplicate) {
                    (None, _) => {}
                    (Some(task), OnDuplicate::Return) => {
                        found.push(Resolution::Deduplicated(task));
                        continue;
                    }
                    (Some(task), OnDuplicate::Refuse) if known.is_some() => {
                        return Err(Refusal::UniqueKeyTaken {
                            key: unique.key.clone(),
                            task,
                        });
                    }
                    (Some(_), OnDuplicate::Refuse) => {
                        return Err(invalid(format!("tasks[{at}].unique_key")));
                    }
                }
            }
            found.push(Resolution::New(TaskId::at(self.index, made)));
            made += 1;
        }
        Ok(found)
    }

    /// Returns the unfinished task with this unique key.
    pub fn holder_of(&self, key: &str) -> Option<TaskId> {
        let holds = |task: &&ModelTask| {
            let own = task.new.unique.as_ref().map(|unique| &*unique.key);
            own == Some(key) && !task.state.is_terminal()
        };
        self.tasks.values().find(holds).map(|task| task.id)
    }
}

/// Field of a refused cycle. The model does not predict which task of the cycle is named.
pub const IN_A_CYCLE: &str = "circle";

/// Returns whether all tasks can start: repeatedly starts those whose dependencies have all started.
fn all_can_start(tasks: &[NewTask]) -> bool {
    let mut started: Vec<&NewTask> = Vec::new();
    loop {
        let can_start = |task: &&NewTask| {
            let has = |key: &String| started.iter().any(|task| task.key.as_ref() == Some(key));
            task.after.iter().all(|dependency| has(&dependency.key))
        };
        let next: Vec<&NewTask> = tasks.iter().filter(can_start).collect();
        if next.len() == started.len() {
            return next.len() == tasks.len();
        }
        started = next;
    }
}

/// Returns whether a task depends on itself, through others.
pub fn is_in_a_cycle(tasks: &[NewTask], at: usize) -> bool {
    let keys = |task: &'_ NewTask| {
        task.after
            .iter()
            .map(|dependency| dependency.key.clone())
            .collect::<Vec<String>>()
    };
    let mut before: Vec<String> = keys(&tasks[at]);
    let mut seen = 0;
    while seen < before.len() {
        let first = tasks
            .iter()
            .find(|task| task.key.as_ref() == Some(&before[seen]));
        for key in first.map(keys).unwrap_or_default() {
            if !before.contains(&key) {
                before.push(key);
            }
        }
        seen += 1;
    }
    tasks[at]
        .key
        .as_ref()
        .is_some_and(|key| before.contains(key))
}

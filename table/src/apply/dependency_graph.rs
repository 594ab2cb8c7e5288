//! Dependency graph of a submission, and deduplication of its tasks by unique key.
//!
//! A task may depend on others of its job, named by their keys, in any order but without cycles. A submitted task whose
//! unique key belongs to an unfinished task is refused or deduplicated: the unfinished task replaces it. A deduplicated
//! task has no part in the job, so no task may depend on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::reply::Refusal;
use crate::command::validate::invalid;
use crate::command::{DependencyCondition, NewTask, OnDuplicate};
use crate::records::job::DeduplicatedTasks;
use crate::table::Table;
use crate::types::ids::TaskId;

/// Resolution of a submitted task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    /// The submitted task becomes this task of the new job.
    New(TaskId),
    /// No task is created, because this unfinished task has the same unique key.
    Deduplicated(TaskId),
}

/// Resolved tasks and dependencies of a submission.
pub(super) struct DependencyGraph {
    /// The resolution of each submitted task.
    pub resolutions: Vec<Resolution>,
    /// The dependencies of each submitted task.
    pub after: Vec<Dependencies>,
}

/// Resolved dependencies of one task.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    /// The tasks it depends on, ascending.
    pub after: Box<[TaskId]>,
    /// The condition of each; empty if all are the default.
    pub conditions: Box<[DependencyCondition]>,
}

/// Position of a dependency in the submission, and its condition.
type Placed = (usize, DependencyCondition);

/// Returns the deduplicated tasks, with their positions in the submission.
pub(super) fn deduplicated(resolutions: &[Resolution]) -> DeduplicatedTasks {
    let positions =
        resolutions
            .iter()
            .zip(0..)
            .filter_map(|(resolution, position)| match resolution {
                Resolution::New(_) => None,
                Resolution::Deduplicated(task) => Some((position, *task)),
            });
    let deduplicated: Vec<(u32, TaskId)> = positions.collect();
    (!deduplicated.is_empty()).then(|| Arc::from(deduplicated))
}

impl Table {
    /// Resolves the tasks of a submission and their dependencies. The first task is made at `position` of entry
    /// `index`.
    pub(super) fn dependency_graph(
        &self,
        tasks: &[NewTask],
        index: u64,
        position: u64,
    ) -> Result<DependencyGraph, Refusal> {
        let resolutions = self.resolve_unique_keys(tasks, index, position)?;
        let Some(before) = self.dependency_order(tasks)? else {
            let after = tasks.iter().map(|_| Dependencies::default()).collect();
            return Ok(DependencyGraph { resolutions, after });
        };
        let after = before
            .iter()
            .zip(0..)
            .map(|(firsts, at): (_, usize)| after(tasks, &resolutions, at, firsts))
            .collect::<Result<_, _>>()?;
        Ok(DependencyGraph { resolutions, after })
    }

    /// Returns the positions of each task's dependencies with their conditions, or `None` without any.
    ///
    /// # Errors
    ///
    /// Returns a refusal if there are too many dependencies, if one is invalid, or if they form a cycle.
    pub(super) fn dependency_order(
        &self,
        tasks: &[NewTask],
    ) -> Result<Option<Vec<Vec<Placed>>>, Refusal> {
        let edges: usize = tasks.iter().map(|task| task.after.len()).sum();
        if edges == 0 {
            return Ok(None);
        }
        let edges_max = self.limits.dependencies_per_job_max;
        if edges > edges_max as usize {
            let problem = format!("have {edges} dependencies together, the bound is {edges_max}");
            return Err(invalid("tasks", problem));
        }
        let before = positions_before(tasks)?;
        refuse_cycles(tasks, &before)?;
        Ok(Some(before))
    }

    fn resolve_unique_keys(
        &self,
        tasks: &[NewTask],
        index: u64,
        position: u64,
    ) -> Result<Vec<Resolution>, Refusal> {
        let mut taken: BTreeMap<&str, TaskId> = BTreeMap::new();
        let mut resolutions = Vec::with_capacity(tasks.len());
        // Past the bound of ids of one entry the submission is refused anyway; until then nothing depends on the id.
        let id = |made: u64| {
            TaskId::at(
                index,
                (position + made).min(crate::types::ids::IDS_PER_ENTRY_MAX - 1),
            )
        };
        let mut made = 0;
        for task in tasks {
            let mut resolution = Resolution::New(id(made));
            if let Some(unique) = &task.unique {
                let known = self.index.unique_keys.get(&*unique.key).copied();
                let known = known.filter(|_| !mutated!(UniqueKeyNotChecked));
                if let Some(task) = known.or_else(|| taken.get(&*unique.key).copied()) {
                    match unique.on_duplicate {
                        OnDuplicate::Return => resolution = Resolution::Deduplicated(task),
                        OnDuplicate::Refuse => {
                            return Err(match known {
                                Some(_) => Refusal::UniqueKeyTaken {
                                    key: unique.key.clone(),
                                    task,
                                },
                                None => invalid(
                                    format!("tasks[{}].unique_key", resolutions.len()),
                                    format!("{:?} is that of an earlier task too", unique.key),
                                ),
                            });
                        }
                    }
                }
                taken.entry(&unique.key).or_insert(id(made));
            }
            made += u64::from(matches!(resolution, Resolution::New(_)));
            resolutions.push(resolution);
        }
        Ok(resolutions)
    }
}

/// Returns the positions of each task's dependencies with their conditions.
fn positions_before(tasks: &[NewTask]) -> Result<Vec<Vec<Placed>>, Refusal> {
    let keyed = tasks.iter().zip(0..);
    let positions: BTreeMap<&str, usize> = keyed
        .filter_map(|(task, at)| Some((task.key.as_deref()?, at)))
        .collect();
    let mut all = Vec::with_capacity(tasks.len());
    for (task, at) in tasks.iter().zip(0..) {
        let mut firsts = Vec::with_capacity(task.after.len());
        for dependency in &task.after {
            let key = &dependency.key;
            let Some(&first) = positions.get(&**key) else {
                return Err(refused(
                    at,
                    format!("{key:?} is the key of no task of this job"),
                ));
            };
            if first == at {
                return Err(refused(at, format!("{key:?} is its own key")));
            }
            firsts.push((first, dependency.when));
        }
        firsts.sort_unstable();
        if let Some(twice) = firsts.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let key = tasks[twice[0].0].key.as_deref().unwrap_or_default();
            return Err(refused(at, format!("{key:?} is named twice")));
        }
        all.push(firsts);
    }
    Ok(all)
}

/// Topological sort (Kahn, 1962): removes tasks without remaining dependencies. Tasks that remain are in a cycle or
/// depend on one.
fn refuse_cycles(tasks: &[NewTask], before: &[Vec<Placed>]) -> Result<(), Refusal> {
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); before.len()];
    for (firsts, at) in before.iter().zip(0..) {
        firsts
            .iter()
            .for_each(|&(first, _)| followers[first].push(at));
    }
    let mut missing: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut free: Vec<usize> = (0..before.len()).filter(|&at| missing[at] == 0).collect();
    while let Some(done) = free.pop() {
        for &follower in &followers[done] {
            missing[follower] -= 1;
            if missing[follower] == 0 {
                free.push(follower);
            }
        }
    }
    let Some(first) = missing.iter().position(|&missing| missing > 0) else {
        return Ok(());
    };
    // From any remaining task, a walk back along remaining dependencies ends in the cycle itself.
    let back = |at: usize| {
        let mut firsts = before[at].iter().map(|&(first, _)| first);
        firsts.find(|&first| missing[first] > 0)
    };
    let mut at = first;
    for _ in 0..before.len() {
        at = back(at).unwrap_or(at);
    }
    let (mut cycle, end) = (vec![at], at);
    while let Some(next) =
        back(at).filter(|&next| next != end && cycle.len() < CYCLE_KEYS_SHOWN_MAX)
    {
        cycle.push(next);
        at = next;
    }
    cycle.sort_unstable();
    let keys: Vec<&str> = cycle
        .iter()
        .filter_map(|&at| tasks[at].key.as_deref())
        .collect();
    let problem = format!(
        "goes in a circle: {} come after one another",
        keys.join(", ")
    );
    Err(refused(cycle[0], problem))
}

/// Maximum number of keys of a cycle that the refusal names.
const CYCLE_KEYS_SHOWN_MAX: usize = 10;

fn after(
    tasks: &[NewTask],
    resolutions: &[Resolution],
    at: usize,
    firsts: &[Placed],
) -> Result<Dependencies, Refusal> {
    let made = |&(first, _): &Placed| match resolutions[first] {
        Resolution::New(task) => Ok(task),
        Resolution::Deduplicated(other) => {
            let key = tasks[first].key.as_deref().unwrap_or_default();
            Err(refused(
                at,
                format!(
                    "task {other} stands in for {key:?}, which is then no task of this job: nothing can come after it"
                ),
            ))
        }
    };
    match resolutions[at] {
        Resolution::New(_) => {
            let conditions = firsts.iter().map(|&(_, when)| when);
            let plain = conditions
                .clone()
                .all(|when| when == DependencyCondition::default());
            Ok(Dependencies {
                after: firsts.iter().map(made).collect::<Result<_, _>>()?,
                conditions: conditions.filter(|_| !plain).collect(),
            })
        }
        Resolution::Deduplicated(_) => Ok(Dependencies::default()),
    }
}

fn refused(at: usize, problem: String) -> Refusal {
    invalid(format!("tasks[{at}].after"), problem)
}

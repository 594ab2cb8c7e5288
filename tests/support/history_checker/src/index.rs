//! Indexes over a history, built once for all rules: by job, by task, by idempotency key.

use std::collections::{BTreeMap, HashMap};

use crate::history::History;
use crate::record::{Consistency, Op, Outcome, Record, Submitted};
use crate::verdict::Counts;

/// The history and its indexes.
pub struct HistoryIndex<'a> {
    /// The history.
    pub history: &'a History,
    /// All tasks whose ids are in the answers to submissions.
    pub tasks: BTreeMap<&'a str, TaskIndex<'a>>,
    /// All jobs whose ids are in the answers to submissions, with the records of those answers.
    pub jobs: HashMap<&'a str, Vec<usize>>,
    /// Jobs that ticks made.
    pub ticked: HashMap<&'a str, usize>,
    /// Submissions by idempotency key.
    pub keys: HashMap<&'a str, Vec<usize>>,
    /// Submissions without an answer that contains the ids.
    pub unanswered: Vec<usize>,
    /// Counts of the history's contents.
    pub counts: Counts,
}

/// One task.
pub struct TaskIndex<'a> {
    /// The task as submitted.
    pub spec: &'a Submitted,
    /// Id of its job.
    pub job: &'a str,
    /// The first submission whose answer contains the task.
    pub acknowledged: usize,
    /// All tasks of its submission, this one included.
    pub siblings: &'a [Submitted],
    /// Whether the failure of one task of the job cancels the others.
    pub fail_fast: bool,
    /// Records about the task, without submissions and operations on its job.
    pub records: Vec<usize>,
}

impl<'a> HistoryIndex<'a> {
    /// Builds the indexes of a history.
    pub fn of(history: &'a History) -> Self {
        let mut indexed = Self {
            history,
            tasks: BTreeMap::new(),
            jobs: HashMap::new(),
            ticked: HashMap::new(),
            keys: HashMap::new(),
            unanswered: Vec::new(),
            counts: Counts::default(),
        };
        for (at, record) in history.records.iter().enumerate() {
            indexed.index_submission(at, record);
        }
        for (at, record) in history.records.iter().enumerate() {
            indexed.index_record(at, record);
        }
        indexed.count();
        indexed
    }

    /// Returns a record by its position.
    pub fn record(&self, at: usize) -> &'a Record {
        &self.history.records[at]
    }

    fn index_submission(&mut self, at: usize, record: &'a Record) {
        if let Op::Tick { job, .. } = &record.op {
            self.ticked.insert(job, at);
        }
        let Op::Submit {
            key,
            tasks,
            job,
            duplicate,
            fail_fast,
        } = &record.op
        else {
            return;
        };
        if let Some(key) = key {
            self.keys.entry(key).or_default().push(at);
        }
        let (Outcome::Ok, Some(job)) = (record.outcome, job) else {
            if record.outcome != Outcome::Fail {
                self.unanswered.push(at);
            }
            return;
        };
        let answers = self.jobs.entry(job).or_default();
        answers.push(at);
        for spec in tasks {
            let Some(id) = &spec.id else { continue };
            let new = TaskIndex {
                spec,
                job,
                acknowledged: at,
                siblings: tasks,
                fail_fast: *fail_fast,
                records: Vec::new(),
            };
            match self.tasks.entry(id) {
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(new);
                }
                // A task that is returned because of its unique key belongs to the submission that created it.
                std::collections::btree_map::Entry::Occupied(mut taken) => {
                    let before = &self.history.records[taken.get().acknowledged];
                    if !duplicate && record.return_ns < before.return_ns {
                        taken.insert(new);
                    }
                }
            }
        }
    }

    fn index_record(&mut self, at: usize, record: &'a Record) {
        let mut note = |task: &str| {
            if let Some(indexed) = self.tasks.get_mut(task)
                && indexed.records.last() != Some(&at)
            {
                indexed.records.push(at);
            }
        };
        match &record.op {
            Op::CancelTask { task }
            | Op::RetryTask { task }
            | Op::ReadTask { task, .. }
            | Op::Effect { task, .. } => note(task),
            Op::Poll { leases, .. } => leases.iter().for_each(|lease| note(&lease.task)),
            Op::Report { results, .. } => results.iter().for_each(|one| note(&one.task)),
            Op::Submit { .. }
            | Op::CancelJob { .. }
            | Op::ReadJob { .. }
            | Op::Due { .. }
            | Op::Tick { .. }
            | Op::Fault { .. }
            | Op::Expect { .. }
            | Op::Settled {} => {}
        }
    }

    fn count(&mut self) {
        let counts = &mut self.counts;
        counts.records = self.history.records.len() as u64;
        counts.jobs_acknowledged = self.jobs.len() as u64;
        counts.tasks_acknowledged = self.tasks.len() as u64;
        let mut accepted = std::collections::HashSet::new();
        for record in &self.history.records {
            counts.operations += u64::from(record.op.is_request());
            counts.unknown += u64::from(record.outcome == Outcome::Unknown);
            match &record.op {
                Op::ReadTask { consistency, .. } | Op::ReadJob { consistency, .. }
                    if record.outcome == Outcome::Ok =>
                {
                    match consistency {
                        Consistency::Linearizable => counts.reads_linearizable += 1,
                        Consistency::Stale => counts.reads_stale += 1,
                    }
                }
                Op::Report { results, .. } => {
                    let taken = results.iter().filter(|one| one.accepted == Some(true));
                    accepted.extend(taken.map(|one| (one.task.as_str(), one.token)));
                }
                Op::Effect { .. } => counts.effects += 1,
                Op::Fault { kind, effect, .. } => match effect {
                    Some(_) => *counts.faults.entry(kind.clone()).or_default() += 1,
                    None => counts.faults_without_effect += 1,
                },
                Op::Submit { .. }
                | Op::CancelTask { .. }
                | Op::CancelJob { .. }
                | Op::RetryTask { .. }
                | Op::Poll { .. }
                | Op::ReadTask { .. }
                | Op::ReadJob { .. }
                | Op::Due { .. }
                | Op::Tick { .. }
                | Op::Expect { .. }
                | Op::Settled {} => {}
            }
        }
        counts.results_accepted = accepted.len() as u64;
    }
}

impl TaskIndex<'_> {
    /// Returns whether this task, or another task of its submission, may have been retried on request.
    pub fn was_retried(&self, indexed: &HistoryIndex<'_>) -> bool {
        let ids = self.siblings.iter().filter_map(|one| one.id.as_deref());
        let mut records = ids
            .filter_map(|id| indexed.tasks.get(id))
            .flat_map(|one| &one.records);
        records.any(|at| {
            let record = indexed.record(*at);
            matches!(record.op, Op::RetryTask { .. }) && record.outcome != Outcome::Fail
        })
    }

    /// Returns whether the end of another task may end this one.
    pub fn ends_with_others(&self) -> bool {
        self.fail_fast || !self.spec.after.is_empty()
    }
}

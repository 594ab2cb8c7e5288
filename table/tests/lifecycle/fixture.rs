//! Fixture: a table with one task in a given state, and the commands that act on it.

use std::collections::BTreeMap;

use bytes::Bytes;
use triarch_table::command::{
    Backoff, EndLease, EndReason, Grant, NewTask, OnFailure, RegisterWorker, ReportedOutcome,
    Requires, SubmitJob, TaskReport,
};
use triarch_table::types::state::TaskState;
use triarch_table::{Command, JobId, Limits, Reply, Stamp, Table, Task, TaskId, Token, WorkerId};

/// Times in ms: creation of the task, its delay, its expiry, and the retention of finished jobs.
pub const MADE_MS: u64 = 1_000;
pub const DELAY_MS: u64 = 60_000;
pub const EXPIRES_MS: u64 = 30_000;
pub const KEPT_MS: u64 = 20_000;

/// A table with one task in a given state.
pub struct Fixture {
    pub table: Table,
    pub worker: WorkerId,
    pub job: JobId,
    pub task: TaskId,
    /// The other task of the job, if there is one.
    pub sibling: Option<TaskId>,
    /// The token of its last attempt, or one that was never granted.
    pub token: Token,
}

/// Properties of the task in addition to its state.
#[derive(Clone, Copy, Default)]
pub struct Kind {
    /// It has only one attempt, and may be lost only once.
    pub last_try: bool,
    /// It expires if it is not started in time.
    pub expires: bool,
    /// Its job has another task and this failure policy.
    pub sibling: Option<OnFailure>,
    /// Finished jobs are kept for a short time only.
    pub kept_short: bool,
}

impl Fixture {
    pub fn of(state: TaskState, kind: Kind) -> Self {
        let mut limits = Limits::default();
        if kind.kept_short {
            limits.finished_age_ms = KEPT_MS;
        }
        let tries = if kind.last_try { 1 } else { 3 };
        let mut task = new_task(tries);
        task.expires_ms = match state {
            TaskState::Expired => Some(0),
            _ => kind.expires.then_some(EXPIRES_MS),
        };
        if state == TaskState::Delayed {
            task.delay_ms = DELAY_MS;
        }
        if state == TaskState::Waiting {
            task.after = vec!["first".into()];
        }
        let mut tasks = vec![task];
        if kind.sibling.is_some() || state == TaskState::Waiting {
            tasks.push(NewTask {
                key: Some("first".into()),
                ..new_task(1)
            });
        }
        let worker = WorkerId::at(1, 0);
        let (job, task) = (JobId::at(2, 0), TaskId::at(2, 0));
        let sibling = (tasks.len() > 1).then(|| TaskId::at(2, 1));
        let mut fixture = Self {
            table: Table::new(limits),
            worker,
            job,
            task,
            sibling,
            token: Token(7),
        };
        fixture.apply(Command::RegisterWorker(register("a")), 0);
        let on_failure = kind.sibling.unwrap_or_default();
        fixture.apply(Command::SubmitJob(submit(tasks, on_failure)), 0);
        if let TaskState::Running
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Cancelled = state
        {
            let reply = fixture.apply(fixture.grant(), 0);
            let Reply::Granted { leases } = reply else {
                panic!("{reply:?}")
            };
            fixture.token = leases[0].token;
        }
        match state {
            TaskState::Succeeded => drop(fixture.apply(fixture.report(succeeded()), 0)),
            TaskState::Failed => drop(fixture.apply(fixture.report(failed(false)), 0)),
            TaskState::Cancelled => drop(fixture.apply(Command::CancelTask { task }, 0)),
            TaskState::Expired => drop(fixture.apply(Command::AdvanceTime, 0)),
            TaskState::Waiting | TaskState::Delayed | TaskState::Queued | TaskState::Running => {}
        }
        assert_eq!(fixture.table.task(task).map(Task::state), Some(state));
        fixture
    }

    pub fn apply(&mut self, command: Command, after_ms: u64) -> Reply {
        let stamp = Stamp {
            index: self.table.last_index() + 1,
            now_ms: MADE_MS + after_ms,
        };
        let mut replies = self.table.apply(stamp, vec![command], &mut Vec::new());
        self.table.check_invariants();
        replies.pop().expect("one for each")
    }

    pub fn grant(&self) -> Command {
        let (task, worker) = (self.task, self.worker);
        Command::Grant {
            grants: vec![Grant { task, worker }],
        }
    }

    pub fn report(&self, outcome: ReportedOutcome) -> Command {
        let (task, token) = (self.task, self.token);
        Command::Report {
            worker: self.worker,
            results: vec![TaskReport {
                task,
                token,
                outcome,
            }],
        }
    }

    pub fn end(&self, reason: EndReason) -> Command {
        let (task, token) = (self.task, self.token);
        Command::EndLeases {
            leases: vec![EndLease {
                task,
                token,
                reason,
            }],
        }
    }

    /// Ends the sibling with this outcome.
    pub fn end_sibling(&mut self, outcome: ReportedOutcome) -> Reply {
        let sibling = self.sibling.expect("this kind has one");
        let worker = self.worker;
        let grants = vec![Grant {
            task: sibling,
            worker,
        }];
        let reply = self.apply(Command::Grant { grants }, 0);
        let Reply::Granted { leases } = reply else {
            panic!("{reply:?}")
        };
        let results = vec![TaskReport {
            task: sibling,
            token: leases[0].token,
            outcome,
        }];
        drop(self.apply(Command::Report { worker, results }, 0));
        Reply::Done { tasks: 0 }
    }
}

pub fn new_task(tries: u32) -> NewTask {
    NewTask {
        key: None,
        kind: "exec".into(),
        payload: Bytes::new(),
        queue: "default".into(),
        priority: 0,
        not_before_ms: None,
        delay_ms: 0,
        expires_ms: None,
        timeout_ms: None,
        max_attempts: tries,
        max_losses: tries,
        backoff: Backoff::default(),
        requires: Requires::default(),
        tags: Vec::new(),
        after: Vec::new(),
        unique: None,
        concurrency: None,
    }
}

pub fn submit(tasks: Vec<NewTask>, on_failure: OnFailure) -> SubmitJob {
    SubmitJob {
        request_id: None,
        idempotency_key: None,
        body_digest: [0; 32],
        part_digests: Vec::new(),
        after_jobs: Vec::new(),
        name: String::new(),
        on_failure,
        tasks,
    }
}

pub fn register(name: &str) -> RegisterWorker {
    RegisterWorker {
        request_id: None,
        name: name.into(),
        queues: vec!["default".into()],
        kinds: vec!["exec".into()],
        slots: 2,
        labels: BTreeMap::new(),
        resources: BTreeMap::new(),
    }
}

pub fn succeeded() -> ReportedOutcome {
    ReportedOutcome::Succeeded {
        result: Bytes::from_static(b"1"),
    }
}

pub fn failed(retryable: bool) -> ReportedOutcome {
    ReportedOutcome::Failed {
        error: Bytes::from_static(b"{}"),
        retryable,
    }
}

//! A table, and the commands that lead tasks through their life: submitted, granted, reported, deleted.

use bytes::Bytes;
use triarch_table::command::reply::Lease;
use triarch_table::command::{
    Backoff, Grant, NewTask, OnFailure, RegisterWorker, ReportedOutcome, Requires, SubmitJob,
    TaskReport,
};
use triarch_table::plan::{Demand, Plan, propose_with};
use triarch_table::{Command, Limits, Reply, Stamp, Table};

const PAYLOAD_BYTES: usize = 256;

/// The table of a benchmark. Finished tasks are deleted soon, so that its size stays the same.
pub struct TaskLife {
    table: Table,
    index: u64,
    wanted: u32,
}

impl TaskLife {
    /// Creates a table with this number of workers, slots per worker, and queued tasks.
    pub fn new(workers: usize, slots: u32, queued: usize) -> Self {
        let limits = Limits {
            finished_jobs_max: 1_000,
            finished_tasks_max: 1_000,
            requests_max: 1_000,
            ..Limits::default()
        };
        let mut life = Self {
            table: Table::new(limits),
            index: 0,
            wanted: slots,
        };
        for number in 0..workers {
            let register = RegisterWorker {
                request_id: None,
                name: format!("worker-{number}"),
                queues: vec!["default".into()],
                kinds: vec!["exec".into()],
                slots,
                labels: Default::default(),
                resources: Default::default(),
            };
            life.apply(vec![Command::RegisterWorker(register)]);
        }
        let mut left = queued;
        while left > 0 {
            let count = left.min(100);
            let submitted = life.apply(vec![submission(count, left as u64)]);
            assert!(
                matches!(submitted[0], Reply::Submitted { .. }),
                "{submitted:?}"
            );
            left -= count;
        }
        life
    }

    /// Applies one entry.
    pub fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        self.index += 1;
        let stamp = Stamp {
            index: self.index,
            now_ms: self.index,
        };
        self.table.apply(stamp, commands, &mut Vec::new())
    }

    /// Returns the plan of the scheduler for workers that want as many tasks as they have slots.
    pub fn plan(&self, grants_max: usize) -> Plan {
        let demand = |_| Demand {
            wanted: self.wanted,
            overloaded: false,
        };
        propose_with(&self.table, &demand, 0, grants_max)
    }

    /// Deletes finished tasks beyond the bound.
    pub fn forget(&mut self) {
        self.apply(vec![Command::AdvanceTime]);
    }

    /// Returns a request number that no submission has used.
    pub fn next_request(&self) -> u64 {
        // Far above the numbers of the initial tasks.
        1_000_000_000 + self.index
    }

    /// Returns the number of jobs, finished ones included.
    pub fn jobs(&self) -> usize {
        self.table.jobs_len()
    }
}

/// Returns a job with this many tasks, submitted by the request of this number.
pub fn submission(tasks: usize, request: u64) -> Command {
    let task = || NewTask {
        key: None,
        kind: "exec".into(),
        payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES]),
        queue: "default".into(),
        priority: 0,
        not_before_ms: None,
        delay_ms: 0,
        expires_ms: None,
        timeout_ms: None,
        max_attempts: 3,
        max_losses: 5,
        backoff: Backoff::default(),
        requires: Requires::default(),
        tags: Vec::new(),
        after: Vec::new(),
        unique: None,
        concurrency: None,
    };
    Command::SubmitJob(SubmitJob {
        request_id: Some(format!("0b1e6a5e-9f3c-4d53-8f0e-{request:012}")),
        idempotency_key: None,
        body_digest: [0; 32],
        part_digests: Vec::new(),
        after_jobs: Vec::new(),
        name: String::new(),
        on_failure: OnFailure::Continue,
        tasks: (0..tasks).map(|_| task()).collect(),
    })
}

/// Returns the command that grants the leases of a plan.
pub fn grant(plan: Plan) -> Command {
    Command::Grant {
        grants: plan.grants,
    }
}

/// Returns the leases of a grant.
pub fn leases(replies: Vec<Reply>) -> Vec<Lease> {
    match replies.into_iter().next() {
        Some(Reply::Granted { leases }) => leases,
        other => panic!("{other:?} is no answer to a grant"),
    }
}

/// Returns reports of success for all of these leases, one command for each worker, in the order of the leases.
pub fn reports(leases: &[Lease]) -> Vec<Command> {
    let mut by_worker: Vec<(triarch_table::WorkerId, Vec<TaskReport>)> = Vec::new();
    for lease in leases {
        let report = TaskReport {
            task: lease.task,
            token: lease.token,
            outcome: ReportedOutcome::Succeeded {
                result: Bytes::from_static(b"null"),
            },
        };
        match by_worker
            .iter_mut()
            .find(|(worker, _)| *worker == lease.worker)
        {
            Some((_, results)) => results.push(report),
            None => by_worker.push((lease.worker, vec![report])),
        }
    }
    let commands = by_worker
        .into_iter()
        .map(|(worker, results)| Command::Report { worker, results });
    commands.collect()
}

/// Returns a report of this many results by one worker, for leases of `plan`.
pub fn report_of(plan: &Plan) -> Command {
    let results = plan.grants.iter().map(|Grant { task, .. }| TaskReport {
        task: *task,
        token: triarch_table::Token(u64::MAX),
        outcome: ReportedOutcome::Succeeded {
            result: Bytes::from_static(b"null"),
        },
    });
    Command::Report {
        worker: plan.grants[0].worker,
        results: results.collect(),
    }
}

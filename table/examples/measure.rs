//! Measures a full table: `cargo run --release -p triarch-table --example measure [-- tasks [part]]`.
//!
//! The part `full` is a table with this number of delayed tasks and the same number of queued ones; the other parts measure
//! one thing each. Prints the memory of a task, how long freezing holds up applies, the cost of the first writes after it,
//! the rates of applies and plans with a long queue, and the time to write and read a snapshot. The figures are of one run
//! on one machine: compare ratios. Runs on Linux, because it reads memory from `/proc`.

use std::time::Instant;

use bytes::Bytes;
use triarch_table::command::{
    Backoff, Grant, NewTask, OnFailure, RegisterWorker, ReportedOutcome, Requires, SubmitJob,
    TaskReport,
};
use triarch_table::plan::{Demand, propose_with};
use triarch_table::{Command, Limits, Reply, Stamp, Table, WorkerId};

const PAYLOAD_BYTES: usize = 256;
const BATCH: usize = 100;

struct Run {
    table: Table,
    index: u64,
}

impl Run {
    fn new(tasks_max: u64) -> Self {
        let limits = Limits {
            queue_depth_max: tasks_max,
            tasks_max: 4 * tasks_max,
            ..Limits::default()
        };
        Self {
            table: Table::new(limits),
            index: 0,
        }
    }

    fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        self.index += 1;
        let stamp = Stamp {
            index: self.index,
            now_ms: self.index,
        };
        self.table.apply(stamp, commands, &mut Vec::new())
    }

    fn submit(&mut self, count: usize, new: impl Fn() -> NewTask, request: bool) {
        let submit = SubmitJob {
            request_id: request.then(|| format!("0b1e6a5e-9f3c-4d53-8f0e-{:012}", self.index)),
            idempotency_key: None,
            body_digest: [0; 32],
            part_digests: Vec::new(),
            after_jobs: Vec::new(),
            name: String::new(),
            on_failure: OnFailure::Continue,
            tasks: (0..count).map(|_| new()).collect(),
        };
        let replies = self.apply(vec![Command::SubmitJob(submit)]);
        assert!(matches!(replies[0], Reply::Submitted { .. }), "{replies:?}");
    }

    fn register(&mut self, name: String, slots: u32) -> WorkerId {
        let register = RegisterWorker {
            request_id: None,
            name,
            queues: vec!["default".into()],
            kinds: vec!["exec".into()],
            slots,
            labels: Default::default(),
            resources: Default::default(),
        };
        let replies = self.apply(vec![Command::RegisterWorker(register)]);
        let Reply::Registered { worker } = replies[0] else {
            panic!("{replies:?}")
        };
        worker
    }

    /// One round: plan, grant and report for `count` tasks. Returns the time for planning and for applying.
    fn round(&mut self, count: usize) -> (u128, u128) {
        let start = Instant::now();
        let asking = |_| Demand {
            wanted: 8,
            overloaded: false,
        };
        let grants: Vec<Grant> = propose_with(&self.table, &asking, 0, count).grants;
        let planned = start.elapsed().as_nanos();
        assert_eq!(grants.len(), count);
        let start = Instant::now();
        let replies = self.apply(vec![Command::Grant { grants }]);
        let Reply::Granted { leases } = &replies[0] else {
            panic!("{replies:?}")
        };
        let reports = leases.iter().map(|lease| Command::Report {
            worker: lease.worker,
            results: vec![TaskReport {
                task: lease.task,
                token: lease.token,
                outcome: ReportedOutcome::Succeeded {
                    result: Bytes::from_static(b"null"),
                },
            }],
        });
        self.apply(reports.collect());
        (planned, start.elapsed().as_nanos())
    }
}

fn exec(delay_ms: u64) -> NewTask {
    NewTask {
        key: None,
        kind: "exec".into(),
        payload: Bytes::from(vec![b'x'; PAYLOAD_BYTES]),
        queue: "default".into(),
        priority: 0,
        not_before_ms: None,
        delay_ms,
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
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * 4_096
}

fn fill(what: &str, tasks: usize, batch: usize, delay_ms: u64, request: bool) -> Run {
    let before = resident_bytes();
    let mut run = Run::new(tasks as u64);
    let start = Instant::now();
    for _ in 0..tasks / batch {
        run.submit(batch, || exec(delay_ms), request);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {:.0} tasks/s applied", tasks as f64 / seconds);
    print_memory(what, tasks, before);
    run
}

/// Prints the memory of each task, given the resident bytes before they were made.
fn print_memory(what: &str, tasks: usize, before: u64) {
    let bytes = (resident_bytes() - before) / tasks as u64;
    println!(
        "{what}: {} bytes each beyond {PAYLOAD_BYTES} of payload",
        bytes.saturating_sub(PAYLOAD_BYTES as u64)
    );
}

/// Measures equal numbers of delayed and queued tasks: their memory, the cost of work next to them, a snapshot of all.
fn full(tasks: usize) {
    let before = resident_bytes();
    let mut run = Run::new(2 * tasks as u64);
    let start = Instant::now();
    for delay_ms in [1 << 40, 0] {
        for _ in 0..tasks / BATCH {
            run.submit(BATCH, || exec(delay_ms), false);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let what = format!("{tasks} delayed and {tasks} queued");
    println!(
        "{what}: {:.0} tasks/s applied",
        2.0 * tasks as f64 / seconds
    );
    print_memory(&what, 2 * tasks, before);
    live("next to all of them", &mut run, 4, 400);
    live("next to all of them", &mut run, 5_000, 100);
    snapshot(&mut run);
}

/// Measures plans and complete task lifecycles, while other tasks are queued.
fn live(what: &str, run: &mut Run, workers: usize, rounds: usize) {
    let ids: Vec<WorkerId> = (0..workers)
        .map(|at| run.register(format!("{what} {at}"), 8))
        .collect();
    for count in [1, BATCH.min(workers * 8)] {
        let (mut planned, mut applied) = (0, 0);
        for _ in 0..rounds {
            let (plan, apply) = run.round(count);
            (planned, applied) = (planned + plan, applied + apply);
        }
        let per_round = |nanos: u128| nanos as f64 / rounds as f64 / 1_000.0;
        println!(
            "{what}, {workers} workers asking, {count} at a time: plan {:.1} µs, grant and report {:.2} µs each",
            per_round(planned),
            per_round(applied) / count as f64
        );
    }
    for worker in ids {
        run.apply(vec![Command::LeaveWorker { worker }]);
    }
}

fn snapshot(run: &mut Run) {
    let mut freezes: Vec<u128> = (0..20)
        .map(|_| {
            let start = Instant::now();
            let frozen = run.table.freeze();
            let taken = start.elapsed().as_micros();
            drop(frozen);
            taken
        })
        .collect();
    freezes.sort_unstable();
    println!(
        "freeze: median {} µs, longest {} µs",
        freezes[freezes.len() / 2],
        freezes[freezes.len() - 1]
    );

    let frozen = run.table.freeze();
    live("while a frozen view is held", run, 4, 200);
    let start = Instant::now();
    let mut bytes = Vec::new();
    frozen.write(&mut bytes).expect("memory takes all");
    println!(
        "write: {:.2} s, {} MB",
        start.elapsed().as_secs_f64(),
        bytes.len() >> 20
    );

    let start = Instant::now();
    let read = Table::read(&mut &bytes[..]).expect("what was written reads");
    println!("read: {:.2} s", start.elapsed().as_secs_f64());
    drop(read);

    let start = Instant::now();
    let digest = run.table.digest();
    println!(
        "digest: {:.2} s ({digest:016x})",
        start.elapsed().as_secs_f64()
    );
}

/// Every part runs in a process of its own, so that none finds memory that another one left.
fn main() {
    let mut arguments = std::env::args().skip(1);
    let tasks = arguments
        .next()
        .map_or(1_000_000, |tasks| tasks.parse().expect("a number of tasks"));
    let parts = ["short", "long", "delayed", "single", "full"];
    let Some(part) = arguments.next() else {
        for part in parts {
            let this = std::env::current_exe().expect("this program has a path");
            let status = std::process::Command::new(this)
                .args([&tasks.to_string(), part])
                .status();
            assert!(
                status.expect("this program runs").success(),
                "{part} failed"
            );
        }
        return;
    };
    match part.as_str() {
        "short" => live(
            "short queue",
            &mut fill("few queued", 100_000, BATCH, 0, false),
            4,
            400,
        ),
        "long" => {
            let mut run = fill("queued, in batches of 100", tasks, BATCH, 0, false);
            live("long queue", &mut run, 4, 400);
            live("long queue", &mut run, 5_000, 100);
            snapshot(&mut run);
        }
        "delayed" => drop(fill(
            "delayed, in batches of 100",
            tasks,
            BATCH,
            1 << 40,
            false,
        )),
        "single" => drop(fill(
            "queued, one by one with request ids",
            tasks,
            1,
            0,
            true,
        )),
        "full" => full(tasks),
        other => panic!("there is no part {other}: {parts:?}"),
    }
}

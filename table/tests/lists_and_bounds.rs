//! Tests of lists with filters and cursors, and of the bounds on one call and on one entry.

use std::collections::BTreeMap;

use bytes::Bytes;
use triarch_table::command::{
    Backoff, Grant, NewTask, OnFailure, RegisterWorker, Requires, SubmitJob, WorkerDemand,
};
use triarch_table::plan::{Demand, propose, propose_with};
use triarch_table::query::list::SCAN_MAX;
use triarch_table::types::ids::GRANTS_PER_ENTRY_MAX;
use triarch_table::types::state::{JobState, TaskState};
use triarch_table::{
    Command, JobFilter, JobId, Limits, Stamp, Table, TaskFilter, TaskId, WorkerId,
};

fn task(queue: &str, kind: &str) -> NewTask {
    NewTask {
        key: None,
        kind: kind.into(),
        payload: Bytes::from_static(b"{}"),
        queue: queue.into(),
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
    }
}

fn submit(name: &str, tasks: Vec<NewTask>) -> Command {
    Command::SubmitJob(SubmitJob {
        request_id: None,
        idempotency_key: None,
        body_digest: [0; 32],
        part_digests: Vec::new(),
        after_jobs: Vec::new(),
        name: name.into(),
        on_failure: OnFailure::Continue,
        tasks,
    })
}

fn apply(table: &mut Table, commands: Vec<Command>) {
    let stamp = Stamp {
        index: table.last_index() + 1,
        now_ms: 0,
    };
    table.apply(stamp, commands, &mut Vec::new());
}

/// Returns a table with ten jobs of three tasks in entries 1 to 10, of which the even ones are cancelled. A worker runs
/// two of the other tasks.
fn table() -> (Table, WorkerId) {
    let mut table = Table::new(Limits::default());
    for index in 1..=10 {
        let name = if index <= 5 { "early" } else { "late" };
        let mut commands = vec![submit(
            name,
            vec![
                task("default", "exec"),
                task("mail", "exec"),
                task("mail", "sum"),
            ],
        )];
        if index % 2 == 0 {
            commands.push(Command::CancelJob {
                job: JobId::at(index, 0),
            });
        }
        apply(&mut table, commands);
    }
    let register = RegisterWorker {
        request_id: None,
        name: "a".into(),
        queues: vec!["mail".into()],
        kinds: vec!["exec".into(), "sum".into()],
        slots: 2,
        labels: BTreeMap::new(),
        resources: BTreeMap::new(),
    };
    let worker = WorkerId::at(11, 0);
    let grant = |index, position| Grant {
        task: TaskId::at(index, position),
        worker,
    };
    let commands = vec![
        Command::RegisterWorker(register),
        Command::Grant {
            grants: vec![grant(3, 1), grant(1, 2)],
        },
    ];
    apply(&mut table, commands);
    table.check_invariants();
    (table, worker)
}

fn jobs(table: &Table, filter: &JobFilter, limit: usize) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let listed = table.jobs(filter, after, limit);
        assert!(listed.items.len() <= limit);
        found.extend(listed.items.iter().map(|job| job.id.index()));
        match listed.next {
            Some(_) => after = listed.next,
            None => return found,
        }
    }
}

fn tasks(table: &Table, filter: &TaskFilter, limit: usize) -> Vec<(u64, u64)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let listed = table.tasks(filter, after, limit);
        assert!(listed.items.len() <= limit);
        found.extend(
            listed
                .items
                .iter()
                .map(|task| (task.id.index(), task.id.position())),
        );
        match listed.next {
            Some(_) => after = listed.next,
            None => return found,
        }
    }
}

#[test]
fn jobs_come_newest_first_whatever_the_pages() {
    let (table, _) = table();
    for limit in [1, 3, 10, 100] {
        let of = |state, name: Option<&str>| {
            jobs(
                &table,
                &JobFilter {
                    state,
                    name: name.map(str::to_owned),
                },
                limit,
            )
        };
        assert_eq!(of(None, None), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(of(Some(JobState::Cancelled), None), [10, 8, 6, 4, 2]);
        assert_eq!(of(Some(JobState::Running), Some("late")), [9, 7]);
        assert_eq!(of(Some(JobState::Failed), None), []);
        assert_eq!(of(None, Some("nothing")), []);
    }
}

#[test]
fn tasks_come_in_order_whatever_the_pages() {
    let (table, worker) = table();
    for limit in [1, 2, 7, 100] {
        let of = |filter: TaskFilter| tasks(&table, &filter, limit);
        assert_eq!(of(TaskFilter::default()).len(), 30);
        let sums = TaskFilter {
            kind: Some("sum".into()),
            state: Some(TaskState::Queued),
            ..TaskFilter::default()
        };
        assert_eq!(of(sums), [(3, 2), (5, 2), (7, 2), (9, 2)]);
        let mail = TaskFilter {
            queue: Some("mail".into()),
            ..TaskFilter::default()
        };
        assert_eq!(of(mail).len(), 20);
        let running = TaskFilter {
            worker: Some(worker),
            ..TaskFilter::default()
        };
        assert_eq!(of(running.clone()), [(1, 2), (3, 1)]);
        assert_eq!(
            of(TaskFilter {
                state: Some(TaskState::Running),
                ..running.clone()
            }),
            [(1, 2), (3, 1)]
        );
        assert_eq!(
            of(TaskFilter {
                state: Some(TaskState::Failed),
                ..running
            }),
            []
        );
        assert_eq!(
            of(TaskFilter {
                queue: Some("nothing".into()),
                ..TaskFilter::default()
            }),
            []
        );

        let mut found = Vec::new();
        let mut after = None;
        loop {
            let listed = table.tasks_of(JobId::at(4, 0), after, limit);
            found.extend(listed.items.iter().map(|task| task.id.position()));
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, [0, 1, 2]);
    }
    assert!(table.tasks_of(JobId::at(99, 0), None, 10).items.is_empty());
}

#[test]
fn the_list_of_queues_shows_the_counts_of_each() {
    let (table, _) = table();
    let queues = table.queues();
    assert_eq!(
        queues.map(|queue| queue.name).collect::<Vec<_>>(),
        ["default", "mail"]
    );
    let mail = table.queue("mail").expect("there");
    let counts: Vec<_> = mail.counts.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        counts,
        [
            (TaskState::Queued, 8),
            (TaskState::Running, 2),
            (TaskState::Cancelled, 10)
        ]
    );
    assert_eq!(table.queue("nothing"), None);
    let empty = Table::new(Limits::default());
    assert_eq!(
        empty.queues().count(),
        1,
        "the default queue is always there"
    );
}

#[test]
fn one_call_looks_at_a_bounded_number() {
    let mut table = Table::new(Limits::default());
    for _ in 0..=SCAN_MAX / 10_000 {
        apply(
            &mut table,
            vec![submit("", vec![task("default", "exec"); 10_000])],
        );
    }
    apply(&mut table, vec![submit("", vec![task("default", "sum")])]);
    let sums = TaskFilter {
        kind: Some("sum".into()),
        ..TaskFilter::default()
    };
    let first = table.tasks(&sums, None, 10);
    assert_eq!((first.items.len(), first.next.is_some()), (0, true));
    assert_eq!(tasks(&table, &sums, 10).len(), 1);
}

#[test]
fn one_entry_grants_a_bounded_number() {
    let mut table = Table::new(Limits::default());
    let register = RegisterWorker {
        request_id: None,
        name: "a".into(),
        queues: vec!["default".into()],
        kinds: vec!["exec".into()],
        slots: 10_000,
        labels: BTreeMap::new(),
        resources: BTreeMap::new(),
    };
    apply(
        &mut table,
        vec![
            submit("", vec![task("default", "exec"); 5_000]),
            Command::RegisterWorker(register),
        ],
    );
    let worker = WorkerId::at(1, 0);
    for granted in [GRANTS_PER_ENTRY_MAX, 5_000] {
        let grants = propose(
            &table,
            &[WorkerDemand {
                worker,
                wanted: u32::MAX,
                overloaded: false,
            }],
            0,
            usize::MAX,
        )
        .grants;
        apply(&mut table, vec![Command::Grant { grants }]);
        assert_eq!(u64::from(table.running_on(worker)), granted);
    }
    table.check_invariants();
}

#[test]
fn an_overloaded_worker_gets_only_what_nobody_else_takes() {
    let mut table = Table::new(Limits::default());
    let register = |name: &str| {
        Command::RegisterWorker(RegisterWorker {
            request_id: None,
            name: name.into(),
            queues: vec!["default".into()],
            kinds: vec!["exec".into()],
            slots: 2,
            labels: BTreeMap::new(),
            resources: BTreeMap::new(),
        })
    };
    apply(
        &mut table,
        vec![
            register("busy"),
            register("calm"),
            submit("", vec![task("default", "exec"); 3]),
        ],
    );
    let (busy, calm) = (WorkerId::at(1, 0), WorkerId::at(1, 1));
    let asking = |worker| Demand {
        wanted: 2,
        overloaded: worker == busy,
    };
    let plan = propose_with(&table, &asking, 0, usize::MAX);
    let given: Vec<_> = plan.grants.iter().map(|grant| grant.worker).collect();
    assert_eq!(given, [calm, calm, busy]);
}

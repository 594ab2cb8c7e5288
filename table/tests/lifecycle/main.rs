//! Effects of each command on a task in each state. They are executed and compared with the table in
//! `docs/task-lifecycle.md`. `UPDATE=1 cargo test -p triarch-table --test lifecycle` writes that table.

mod fixture;

use std::path::Path;

use bytes::Bytes;
use triarch_table::command::reply::{Refusal, ReportDecision};
use triarch_table::command::{
    CatchUp, EndReason, OnFailure, Overlap, PutSchedule, QueueChange, ReportedOutcome, StagePart,
    TickAction, TickSchedule,
};
use triarch_table::records::task::Life;
use triarch_table::types::state::TaskState;
use triarch_table::{Command, Reply, Task, Token};

use fixture::{
    DELAY_MS, EXPIRES_MS, Fixture, KEPT_MS, Kind, MADE_MS, failed, new_task, register, submit,
    succeeded,
};

const BEGIN: &str = "<!-- generated: states and commands -->";
const END: &str = "<!-- end of what is generated -->";

/// Returns commands that change no existing task.
fn others(fixture: &Fixture) -> Vec<Command> {
    let name = || "s".to_owned();
    let generation = fixture.table.last_index() + 1;
    let next_tick_ms = Some(MADE_MS);
    vec![
        Command::PutSchedule(PutSchedule {
            name: name(),
            cron: "* * * * *".into(),
            timezone: "UTC".into(),
            job: submit(vec![new_task(1)], OnFailure::Continue),
            job_text: Bytes::new(),
            overlap: Overlap::Allow,
            catch_up: CatchUp::One,
            paused: false,
            next_tick_ms,
        }),
        Command::TickSchedule(TickSchedule {
            name: name(),
            generation,
            tick_ms: MADE_MS,
            next_tick_ms: None,
            action: TickAction::Fire,
        }),
        Command::TriggerSchedule {
            name: name(),
            request_id: None,
        },
        Command::PauseSchedule { name: name() },
        Command::ResumeSchedule {
            name: name(),
            generation,
            next_tick_ms,
        },
        Command::DeleteSchedule { name: name() },
        Command::StagePart(StagePart {
            key: "k".into(),
            part: 1,
            parts: 1,
            digest: [0; 32],
            name: String::new(),
            on_failure: OnFailure::Continue,
            tasks: vec![new_task(1)],
        }),
        Command::SubmitJob(submit(vec![new_task(1)], OnFailure::Continue)),
        Command::RegisterWorker(register("b")),
        Command::ChangeQueue {
            queue: "default".into(),
            change: QueueChange {
                paused: Some(true),
                max_running: Some(Some(0)),
                ..QueueChange::default()
            },
        },
        Command::PauseWorker {
            worker: fixture.worker,
        },
        Command::ResumeWorker {
            worker: fixture.worker,
        },
        Command::DrainWorker {
            worker: fixture.worker,
        },
    ]
}

/// A row of the table: its name, and the action on a fixture.
struct Row {
    name: &'static str,
    kind: Kind,
    act: fn(&mut Fixture) -> Reply,
}

fn rows() -> Vec<Row> {
    let plain = Kind::default();
    let last_try = Kind {
        last_try: true,
        ..plain
    };
    let expires = Kind {
        expires: true,
        ..plain
    };
    let kept_short = Kind {
        kept_short: true,
        ..plain
    };
    let sibling = Kind {
        sibling: Some(OnFailure::Continue),
        ..plain
    };
    let fail_fast = Kind {
        sibling: Some(OnFailure::FailFast),
        ..plain
    };
    let row = |name, kind, act| Row { name, kind, act };
    vec![
        row("**Grant** (leader)", plain, |s| s.apply(s.grant(), 0)),
        row("**Report** succeeded", plain, |s| {
            s.apply(s.report(succeeded()), 0)
        }),
        row("**Report** failed, retryable", plain, |s| {
            s.apply(s.report(failed(true)), 0)
        }),
        row("— which makes `max_attempts`", last_try, |s| {
            s.apply(s.report(failed(true)), 0)
        }),
        row("**Report** failed, not retryable", plain, |s| {
            s.apply(s.report(failed(false)), 0)
        }),
        row("**Report** handed back", plain, |s| {
            s.apply(s.report(ReportedOutcome::Returned), 0)
        }),
        row("**Report** under another token", plain, |s| {
            s.token = Token(s.token.0 + 1);
            s.apply(s.report(succeeded()), 0)
        }),
        row("**EndLeases** (leader): *timed out*", plain, |s| {
            s.apply(s.end(EndReason::TimedOut), 0)
        }),
        row("— which makes `max_attempts`", last_try, |s| {
            s.apply(s.end(EndReason::TimedOut), 0)
        }),
        row("**EndLeases**: *expired*, not confirmed", plain, |s| {
            s.apply(s.end(EndReason::Expired), 0)
        }),
        row("— which makes `max_losses`", last_try, |s| {
            s.apply(s.end(EndReason::Expired), 0)
        }),
        row("**EndLeases**: *returned*, not delivered", plain, |s| {
            s.apply(s.end(EndReason::Returned), 0)
        }),
        row("**LoseWorkers** (leader)", plain, |s| {
            let workers = vec![s.worker];
            s.apply(Command::LoseWorkers { workers }, 0)
        }),
        row("— which makes `max_losses`", last_try, |s| {
            let workers = vec![s.worker];
            s.apply(Command::LoseWorkers { workers }, 0)
        }),
        row("**LeaveWorker**", plain, |s| {
            let worker = s.worker;
            s.apply(Command::LeaveWorker { worker }, 0)
        }),
        row("**CancelTask**", plain, |s| {
            s.apply(Command::CancelTask { task: s.task }, 0)
        }),
        row("**CancelJob**, of one task", plain, |s| {
            s.apply(Command::CancelJob { job: s.job }, 0)
        }),
        row("**CancelTasks**", plain, |s| {
            let (tasks, include_running) = (vec![s.task], true);
            s.apply(
                Command::CancelTasks {
                    tasks,
                    include_running,
                },
                0,
            )
        }),
        row("— not the running ones", plain, |s| {
            let (tasks, include_running) = (vec![s.task], false);
            s.apply(
                Command::CancelTasks {
                    tasks,
                    include_running,
                },
                0,
            )
        }),
        row("**RetryTask**", plain, |s| {
            let (task, request_id) = (s.task, None);
            s.apply(Command::RetryTask { task, request_id }, 0)
        }),
        row("**RetryTasks**", plain, |s| {
            let tasks = vec![s.task];
            s.apply(Command::RetryTasks { tasks }, 0)
        }),
        row("**ForgetJobs**, of one task", plain, |s| {
            let jobs = vec![s.job];
            s.apply(Command::ForgetJobs { jobs }, 0)
        }),
        row("**AdvanceTime** (leader) past its delay", plain, |s| {
            s.apply(Command::AdvanceTime, DELAY_MS)
        }),
        row("— past its `expires_ms`", expires, |s| {
            s.apply(Command::AdvanceTime, EXPIRES_MS)
        }),
        row("— past the time it is kept", kept_short, |s| {
            s.apply(Command::AdvanceTime, KEPT_MS)
        }),
        row("the one it comes after succeeds", sibling, |s| {
            s.end_sibling(succeeded())
        }),
        row("— ends in another way", sibling, |s| {
            s.end_sibling(failed(false))
        }),
        row("another one fails, `fail_fast`", fail_fast, |s| {
            s.end_sibling(failed(false))
        }),
        row("all other commands", plain, |s| {
            for command in others(s) {
                let reply = s.apply(command.clone(), 0);
                assert!(
                    !matches!(reply, Reply::Refused(_)),
                    "{command:?}: {reply:?}"
                );
                assert!(!has_rows(&command), "{command:?}");
            }
            Reply::Done { tasks: 0 }
        }),
    ]
}

/// Returns whether a command has rows of its own; the others share one row.
fn has_rows(command: &Command) -> bool {
    match command {
        Command::CancelJob { .. }
        | Command::CancelTask { .. }
        | Command::RetryTask { .. }
        | Command::LeaveWorker { .. }
        | Command::LoseWorkers { .. }
        | Command::Grant { .. }
        | Command::EndLeases { .. }
        | Command::Report { .. }
        | Command::AdvanceTime
        | Command::CancelTasks { .. }
        | Command::RetryTasks { .. }
        | Command::ForgetJobs { .. } => true,
        Command::SubmitJob(_)
        | Command::StagePart(_)
        | Command::RegisterWorker(_)
        | Command::DrainWorker { .. }
        | Command::PauseWorker { .. }
        | Command::ResumeWorker { .. }
        | Command::ChangeQueue { .. }
        | Command::PutSchedule(_)
        | Command::DeleteSchedule { .. }
        | Command::PauseSchedule { .. }
        | Command::ResumeSchedule { .. }
        | Command::TriggerSchedule { .. }
        | Command::TickSchedule(_)
        // It leases as **Grant** does.
        | Command::GrantNext { .. }
        // It is refused as soon as the table holds a task.
        | Command::RestorePart(_)
        | Command::RestorePartOfLevel2(_)
        | Command::SetTimeBack(_) => false,
    }
}

/// Returns the effect of a row on a task in a state.
fn cell(state: TaskState, row: &Row) -> String {
    let failed = [TaskState::Failed, TaskState::Expired].contains(&state);
    if failed && row.kind.sibling == Some(OnFailure::FailFast) {
        // The other task is cancelled by then.
        return "—".into();
    }
    let mut fixture = Fixture::of(state, row.kind);
    let before = fixture.table.task(fixture.task).expect("made").clone();
    let reply = (row.act)(&mut fixture);
    match fixture.table.task(fixture.task) {
        None => "forgotten".into(),
        Some(after) if after.state() == state => {
            assert!(after == &before, "changed while {state:?}: {after:?}");
            unchanged(&reply)
        }
        Some(after) => changed(&before, after),
    }
}

fn changed(before: &Task, after: &Task) -> String {
    let mut words = vec![format!("→ `{}`", after.state().as_str())];
    if after.failures > before.failures {
        words.push("failures + 1".into());
    }
    if after.losses > before.losses {
        words.push("losses + 1".into());
    }
    if let (Life::Running { position: old, .. }, Life::Queued { position }) =
        (&before.life, &after.life)
    {
        assert_eq!(old, position);
        words.push("old place".into());
    }
    words.join(", ")
}

fn unchanged(reply: &Reply) -> String {
    match reply {
        Reply::Reported { decisions } => match decisions[..] {
            [ReportDecision::Accepted] => "`accepted` again".into(),
            [ReportDecision::StaleToken] => "`stale_token`".into(),
            [ReportDecision::AlreadyFinished] => "`already_finished`".into(),
            ref other => panic!("{other:?}"),
        },
        Reply::Done { tasks: 0 } | Reply::Granted { .. } => "—".into(),
        Reply::Refused(Refusal::JobFinished { .. }) => "refused: `already_finished`".into(),
        Reply::Refused(Refusal::WrongState { state, .. }) => match &**state {
            "succeeded" | "failed" | "expired" => "refused: `already_finished`".into(),
            _ => "refused: `conflict`".into(),
        },
        other => panic!("{other:?}"),
    }
}

fn generated() -> String {
    let mut text = String::from("| |");
    for state in TaskState::ALL {
        text += &format!(" `{}` |", state.as_str());
    }
    text += "\n|---|";
    text += &"---|".repeat(TaskState::ALL.len());
    for row in rows() {
        text += &format!("\n| {} |", row.name);
        for state in TaskState::ALL {
            text += &format!(" {} |", cell(state, &row));
        }
    }
    text
}

#[test]
fn the_document_says_what_each_command_does_in_each_state() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/task-lifecycle.md");
    let text = std::fs::read_to_string(&path).expect("readable");
    let (before, rest) = text.split_once(BEGIN).expect("the place is marked");
    let (said, after) = rest.split_once(END).expect("its end is marked");
    let generated = generated();
    if std::env::var_os("UPDATE").is_some() {
        let text = format!("{before}{BEGIN}\n\n{generated}\n\n{END}{after}");
        std::fs::write(&path, text).expect("writable");
        return;
    }
    assert!(
        said.trim() == generated,
        "docs/task-lifecycle.md says something else than what happens; UPDATE=1 writes it anew:\n{generated}"
    );
}

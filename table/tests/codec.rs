//! Tests of the log format of commands. The golden file of a version is never changed, because old logs must stay
//! readable for ever. A new version gets a file of its own.

#[path = "codec/level_2.rs"]
mod level_2;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use triarch_table::command::codec::{
    CodecError, VERSION, VERSION_WITH_LATER_PARTS, decode_command, encode_command,
};
use triarch_table::command::{
    Backoff, CatchUp, EndLease, EndReason, Grant, NewTask, NextTick, OnFailure, Overlap,
    PutSchedule, QueueChange, RegisterWorker, ReportedOutcome, Requires, RestorePart, SetTimeBack,
    StagePart, SubmitJob, TaskReport, TickAction, TickSchedule, WorkerDemand,
};
use triarch_table::types::queue_options::Placement;
use triarch_table::{Command, JobId, TaskId, Token, WorkerId};

use level_2::commands_of_level_2;

/// Returns a task with every field set that needs no other task.
fn full_task() -> NewTask {
    NewTask {
        key: Some("fetch".into()),
        kind: "sum".into(),
        payload: Bytes::from_static(b"[1,2]"),
        queue: "mail".into(),
        priority: 9,
        not_before_ms: Some(1_764_000_000_000),
        delay_ms: 300,
        expires_ms: Some(60_000),
        timeout_ms: Some(30_000),
        max_attempts: 1,
        max_losses: 2,
        backoff: Backoff {
            initial_ms: 10,
            factor_milli: 1_500,
            max_ms: 900,
            jitter_permille: 200,
        },
        requires: Requires {
            labels: [("zone".into(), "eu".into())].into(),
            resources: [("mem_mb".into(), 512)].into(),
        },
        tags: vec!["x".into(), "y".into()],
        after: Vec::new(),
        unique: None,
        concurrency: None,
    }
}

/// Returns examples of every variant, with every field set and every option both ways.
fn commands() -> Vec<(&'static str, Command)> {
    let (job, task, worker, token) = (
        JobId::at(5, 1),
        TaskId::at(6, 2),
        WorkerId::at(7, 3),
        Token(8),
    );
    let plain = NewTask {
        key: None,
        kind: "exec".into(),
        payload: Bytes::from_static(b"{}"),
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
    let full = full_task();
    let submit = |request_id: Option<&str>, on_failure, tasks| {
        Command::SubmitJob(SubmitJob {
            request_id: request_id.map(Into::into),
            idempotency_key: request_id.map(|_| "2026-11-23".into()),
            body_digest: std::array::from_fn(|at| at as u8),
            part_digests: Vec::new(),
            after_jobs: Vec::new(),
            name: "nightly".into(),
            on_failure,
            tasks,
        })
    };
    let put = |name: &str, overlap, catch_up, next_tick_ms: Option<u64>| {
        Command::PutSchedule(PutSchedule {
            name: name.into(),
            cron: "*/5 * * * *".into(),
            timezone: "Europe/Paris".into(),
            job: SubmitJob {
                request_id: None,
                idempotency_key: None,
                body_digest: [7; 32],
                part_digests: Vec::new(),
                after_jobs: Vec::new(),
                name: "nightly".into(),
                on_failure: OnFailure::Continue,
                tasks: vec![plain.clone()],
            },
            job_text: Bytes::from_static(b"{\"tasks\":[{\"kind\":\"exec\"}]}"),
            overlap,
            catch_up,
            paused: next_tick_ms.is_none(),
            next_tick_ms,
        })
    };
    let tick = |next_tick_ms, action| {
        Command::TickSchedule(TickSchedule {
            name: "s".into(),
            generation: 5,
            tick_ms: 60_000,
            next_tick_ms,
            action,
        })
    };
    let ended = |reason| EndLease {
        task,
        token,
        reason,
    };
    let reported = |outcome| TaskReport {
        task,
        token,
        outcome,
    };
    vec![
        (
            "submit_job",
            submit(None, OnFailure::Continue, vec![plain.clone()]),
        ),
        (
            "submit_job_full",
            submit(Some("r-1"), OnFailure::FailFast, vec![full, plain.clone()]),
        ),
        ("cancel_job", Command::CancelJob { job }),
        ("cancel_task", Command::CancelTask { task }),
        (
            "retry_task",
            Command::RetryTask {
                task,
                request_id: None,
            },
        ),
        (
            "retry_task_full",
            Command::RetryTask {
                task,
                request_id: Some("r-2".into()),
            },
        ),
        (
            "register_worker",
            Command::RegisterWorker(RegisterWorker {
                request_id: Some("r-3".into()),
                name: "a".into(),
                queues: vec!["default".into(), "mail".into()],
                kinds: vec!["exec".into()],
                slots: 8,
                labels: [("zone".into(), "eu".into())].into(),
                resources: BTreeMap::from([("mem_mb".into(), 4_096)]),
            }),
        ),
        ("leave_worker", Command::LeaveWorker { worker }),
        ("drain_worker", Command::DrainWorker { worker }),
        (
            "lose_workers",
            Command::LoseWorkers {
                workers: vec![worker, WorkerId::at(9, 0)],
            },
        ),
        (
            "grant",
            Command::Grant {
                grants: vec![Grant { task, worker }],
            },
        ),
        (
            "end_leases",
            Command::EndLeases {
                leases: vec![
                    ended(EndReason::Expired),
                    ended(EndReason::Returned),
                    ended(EndReason::TimedOut),
                ],
            },
        ),
        (
            "report",
            Command::Report {
                worker,
                results: vec![
                    reported(ReportedOutcome::Succeeded {
                        result: Bytes::from_static(b"{\"exit_code\":0}"),
                    }),
                    reported(ReportedOutcome::Failed {
                        error: Bytes::from_static(b"{}"),
                        retryable: true,
                    }),
                    reported(ReportedOutcome::Returned),
                ],
            },
        ),
        ("advance_time", Command::AdvanceTime),
        (
            "put_schedule",
            put("default", Overlap::Allow, CatchUp::None, None),
        ),
        (
            "put_schedule_forbid",
            put("forbid", Overlap::Forbid, CatchUp::One, Some(60_000)),
        ),
        (
            "put_schedule_all",
            put("all", Overlap::Forbid, CatchUp::All, Some(60_000)),
        ),
        (
            "delete_schedule",
            Command::DeleteSchedule { name: "s".into() },
        ),
        (
            "pause_schedule",
            Command::PauseSchedule { name: "s".into() },
        ),
        (
            "resume_schedule",
            Command::ResumeSchedule {
                name: "s".into(),
                generation: 5,
                next_tick_ms: Some(1_764_000_000_000),
            },
        ),
        (
            "trigger_schedule",
            Command::TriggerSchedule {
                name: "s".into(),
                request_id: Some("r-4".into()),
            },
        ),
        ("tick_schedule", tick(None, TickAction::Fire)),
        (
            "tick_schedule_pass_by",
            tick(Some(120_000), TickAction::Miss { ticks: 3 }),
        ),
        (
            "change_queue",
            Command::ChangeQueue {
                queue: "q".into(),
                change: QueueChange::default(),
            },
        ),
        (
            "change_queue_full",
            Command::ChangeQueue {
                queue: "q".into(),
                change: QueueChange {
                    paused: Some(true),
                    max_running: Some(Some(3)),
                    rate: Some(None),
                    max_depth: Some(Some(9)),
                    weight: Some(2),
                    placement: Some(Placement::Pack),
                    retain_ms: Some(Some(60_000)),
                    retain_jobs: Some(None),
                },
            },
        ),
        ("pause_worker", Command::PauseWorker { worker }),
        ("resume_worker", Command::ResumeWorker { worker }),
        (
            "cancel_tasks",
            Command::CancelTasks {
                tasks: vec![task],
                include_running: true,
            },
        ),
        ("retry_tasks", Command::RetryTasks { tasks: vec![task] }),
        (
            "stage_part",
            Command::StagePart(StagePart {
                key: "k".into(),
                part: 2,
                parts: 3,
                digest: [7; 32],
                name: "large".into(),
                on_failure: OnFailure::Continue,
                tasks: Vec::new(),
            }),
        ),
        ("forget_jobs", Command::ForgetJobs { jobs: vec![job] }),
        (
            "restore_part",
            Command::RestorePart(RestorePart {
                backup: "b".into(),
                part: 1,
                parts: 2,
                bytes: Bytes::from_static(b"TRITABLE"),
            }),
        ),
        (
            "grant_next",
            Command::GrantNext {
                demands: vec![
                    WorkerDemand {
                        worker,
                        wanted: 4,
                        overloaded: false,
                    },
                    WorkerDemand {
                        worker: WorkerId::at(9, 0),
                        wanted: u32::MAX,
                        overloaded: true,
                    },
                ],
            },
        ),
        (
            "set_time_back",
            Command::SetTimeBack(SetTimeBack {
                to_ms: 1_764_000_000_000,
                ticks: vec![
                    NextTick {
                        schedule: "s".into(),
                        generation: 5,
                        next_tick_ms: Some(1_764_000_060_000),
                    },
                    NextTick {
                        schedule: "t".into(),
                        generation: 6,
                        next_tick_ms: None,
                    },
                ],
            }),
        ),
    ]
}

/// Returns the prefix of the example names of a command. A new variant belongs here and in the list above.
fn variant(command: &Command) -> &'static str {
    match command {
        Command::SubmitJob(_) => "submit_job",
        Command::CancelJob { .. } => "cancel_job",
        Command::CancelTask { .. } => "cancel_task",
        Command::RetryTask { .. } => "retry_task",
        Command::RegisterWorker(_) => "register_worker",
        Command::LeaveWorker { .. } => "leave_worker",
        Command::DrainWorker { .. } => "drain_worker",
        Command::LoseWorkers { .. } => "lose_workers",
        Command::Grant { .. } => "grant",
        Command::EndLeases { .. } => "end_leases",
        Command::Report { .. } => "report",
        Command::AdvanceTime => "advance_time",
        Command::ChangeQueue { .. } => "change_queue",
        Command::PutSchedule(_) => "put_schedule",
        Command::DeleteSchedule { .. } => "delete_schedule",
        Command::PauseSchedule { .. } => "pause_schedule",
        Command::ResumeSchedule { .. } => "resume_schedule",
        Command::TriggerSchedule { .. } => "trigger_schedule",
        Command::TickSchedule(_) => "tick_schedule",
        Command::PauseWorker { .. } => "pause_worker",
        Command::ResumeWorker { .. } => "resume_worker",
        Command::CancelTasks { .. } => "cancel_tasks",
        Command::RetryTasks { .. } => "retry_tasks",
        Command::StagePart(_) => "stage_part",
        Command::ForgetJobs { .. } => "forget_jobs",
        Command::RestorePart(_) => "restore_part",
        Command::RestorePartOfLevel2(_) => "restore_of_level_2",
        Command::GrantNext { .. } => "grant_next",
        Command::SetTimeBack(_) => "set_time_back",
    }
}

/// Number of variants: one more than the number of the last one.
const VARIANTS: usize = 29;

#[test]
fn every_variant_is_among_them() {
    let commands = [commands(), commands_of_level_2()].concat();
    let met: BTreeSet<&str> = commands
        .iter()
        .map(|(_, command)| variant(command))
        .collect();
    assert_eq!(met.len(), VARIANTS, "{met:?}");
    for (name, command) in &commands {
        assert!(name.starts_with(variant(command)), "{name}: {command:?}");
    }
}

#[test]
fn what_level_1_does_not_understand_is_named_and_nothing_else() {
    for (name, command) in commands() {
        // This command is as a whole of level 2.
        let expected = (name == "set_time_back").then(|| "the new time".to_owned());
        assert_eq!(command.part_of_level_2(), expected, "{name}");
    }
    let parts = commands_of_level_2()
        .into_iter()
        .map(|(_, command)| command.part_of_level_2().expect("a part of level 2"));
    assert_eq!(
        parts.collect::<Vec<_>>(),
        [
            "tasks[1].after[1].when",
            "after_jobs",
            "tasks[0].after[1].when",
            "job.tasks[1].after[1].when",
            "the backup",
            "every_ms",
            "results[1].retry_after_ms"
        ]
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

#[test]
fn version_1_reads_and_writes_as_ever() {
    assert_golden("commands.v1.txt", commands());
}

#[test]
fn commands_of_level_2_read_and_write_as_ever() {
    assert_golden("commands.level-2.txt", commands_of_level_2());
}

/// Compares commands with the bytes in a golden file, both ways.
fn assert_golden(file: &str, commands: Vec<(&'static str, Command)>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    if !path.exists() {
        let lines = commands
            .into_iter()
            .map(|(name, command)| format!("{name} {}\n", hex(&encode_command(&command))));
        std::fs::write(&path, lines.collect::<String>()).expect("writable");
        panic!(
            "there was no golden file; {} is written anew",
            path.display()
        );
    }
    let golden = std::fs::read_to_string(path).expect("readable");
    let lines: Vec<(&str, &str)> = golden
        .lines()
        .map(|line| line.split_once(' ').expect("name and bytes"))
        .collect();
    assert_eq!(lines.len(), commands.len());
    for ((name, line), (expected_name, command)) in lines.into_iter().zip(commands) {
        assert_eq!(name, expected_name);
        assert_eq!(
            decode_command(&bytes(line)).as_ref(),
            Ok(&command),
            "{name}"
        );
        assert_eq!(hex(&encode_command(&command)), line, "{name}");
    }
}

#[test]
fn bytes_that_are_no_command_are_refused() {
    assert_eq!(decode_command(&[]), Err(CodecError::Empty));
    for (name, command) in commands().into_iter().chain(commands_of_level_2()) {
        let bytes = encode_command(&command);
        let version = match name.ends_with("_conditions") {
            true => VERSION_WITH_LATER_PARTS,
            false => VERSION,
        };
        assert_eq!(bytes[0], version, "{name}");
        let longer = [&bytes[..], &[0, 0]].concat();
        assert_eq!(
            decode_command(&longer),
            Err(CodecError::TrailingBytes(2)),
            "{name}"
        );
        for length in 1..bytes.len() {
            assert!(
                decode_command(&bytes[..length]).is_err(),
                "{name}, {length} bytes of it"
            );
        }
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        assert_eq!(
            decode_command(&newer),
            Err(CodecError::UnknownVersion(VERSION + 1)),
            "{name}"
        );
    }
    assert!(matches!(
        decode_command(&[VERSION, 200]),
        Err(CodecError::Malformed(_))
    ));
    // A length beyond the end of the bytes must not be believed.
    assert!(
        decode_command(&[
            VERSION, 7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1
        ])
        .is_err()
    );
}

#[test]
fn conditions_that_fit_no_dependency_are_refused() {
    let plain = Command::SubmitJob(SubmitJob {
        request_id: None,
        idempotency_key: None,
        body_digest: [0; 32],
        part_digests: Vec::new(),
        after_jobs: Vec::new(),
        name: String::new(),
        on_failure: OnFailure::Continue,
        tasks: vec![NewTask {
            after: vec!["a".into(), "b".into()],
            ..full_task()
        }],
    });
    let body = encode_command(&plain).split_off(1);
    let with = |conditions: &[u8]| [&[VERSION_WITH_LATER_PARTS], &body[..], conditions].concat();
    assert!(decode_command(&with(&[2, 0, 0, 1, 0, 1, 2, 0])).is_ok());
    for wrong in [
        &[0, 0][..],
        // The default, which has no place there.
        &[1, 0, 0, 0, 0],
        &[1, 1, 0, 1, 0],
        &[1, 0, 2, 1, 0],
        // Twice, or not in order.
        &[2, 0, 0, 1, 0, 0, 2, 0],
        &[2, 0, 1, 2, 0, 0, 1, 0],
    ] {
        assert_eq!(
            decode_command(&with(wrong)),
            Err(CodecError::LaterParts),
            "{wrong:?}"
        );
    }
    assert!(decode_command(&with(&[1, 0, 0, 3, 0])).is_err());
}

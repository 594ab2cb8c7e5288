//! Tests of damaged snapshots: any damage gives an error that describes it, never a panic and never another table.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::command::{
    Backoff, CatchUp, Command, Grant, NewTask, OnDuplicate, OnFailure, Overlap, PutSchedule,
    RegisterWorker, ReportedOutcome, Requires, SubmitJob, TaskReport, TickAction, TickSchedule,
    Unique,
};
use crate::snapshot::SnapshotError;
use crate::snapshot::digest::Digest;
use crate::snapshot::format::{MAGIC, Record, encoded};
use crate::table::Table;
use crate::types::ids::{JobId, Stamp, TaskId, Token, WorkerId};
use crate::types::limits::Limits;

fn task(kind: &str) -> NewTask {
    NewTask {
        key: Some(kind.to_owned()),
        kind: kind.to_owned(),
        payload: Bytes::from_static(b"[1,2,3]"),
        queue: "default".to_owned(),
        priority: 3,
        not_before_ms: None,
        delay_ms: 0,
        expires_ms: Some(60_000),
        timeout_ms: Some(1_000),
        max_attempts: 3,
        max_losses: 2,
        backoff: Backoff::default(),
        requires: Requires {
            labels: BTreeMap::new(),
            resources: [("mem".to_owned(), 2)].into(),
        },
        tags: vec!["x".to_owned()],
        after: Vec::new(),
        unique: None,
        concurrency: None,
    }
}

fn submit(key: Option<&str>, kinds: &[&str]) -> Command {
    Command::SubmitJob(SubmitJob {
        request_id: key.map(|key| format!("r-{key}")),
        idempotency_key: key.map(str::to_owned),
        body_digest: [7; 32],
        part_digests: Vec::new(),
        after_jobs: Vec::new(),
        name: "nightly".to_owned(),
        on_failure: OnFailure::Continue,
        tasks: kinds.iter().map(|kind| task(kind)).collect(),
    })
}

fn schedule(name: &str, next_tick_ms: Option<u64>) -> Command {
    let Command::SubmitJob(job) = submit(None, &["nap"]) else {
        unreachable!("it submits");
    };
    Command::PutSchedule(PutSchedule {
        name: name.to_owned(),
        cron: "0 * * * *".to_owned(),
        timezone: "Europe/Paris".to_owned(),
        job,
        job_text: Bytes::from_static(b"{}"),
        overlap: Overlap::Forbid,
        catch_up: CatchUp::All,
        paused: next_tick_ms.is_none(),
        next_tick_ms,
    })
}

/// Returns a small table with records of every kind.
fn table() -> Table {
    let limits = Limits {
        finished_jobs_max: 1,
        ..Limits::default()
    };
    let mut table = Table::new(limits);
    let worker = |name: &str| {
        Command::RegisterWorker(RegisterWorker {
            request_id: None,
            name: name.to_owned(),
            queues: vec!["default".to_owned()],
            kinds: vec!["exec".to_owned(), "sum".to_owned()],
            slots: 4,
            labels: BTreeMap::new(),
            resources: [("mem".to_owned(), 8)].into(),
        })
    };
    let (live, lost) = (WorkerId::at(1, 0), WorkerId::at(1, 1));
    let grant = |task, worker| Command::Grant {
        grants: vec![Grant { task, worker }],
    };
    let report = |task, position, outcome| Command::Report {
        worker: live,
        results: vec![TaskReport {
            task,
            token: Token::at(2, position).expect("small"),
            outcome,
        }],
    };
    let failed = ReportedOutcome::Failed {
        error: Bytes::from_static(b"{\"type\":\"Oops\"}"),
        retryable: true,
    };
    let tasks: Vec<TaskId> = (0..5).map(|position| TaskId::at(1, position)).collect();
    let entries = [
        vec![
            worker("a"),
            worker("b"),
            submit(Some("k"), &["exec", "sum", "map", "nap"]),
            submit(Some("old"), &["exec"]),
        ],
        vec![
            grant(tasks[0], live),
            grant(tasks[1], live),
            report(
                tasks[0],
                0,
                ReportedOutcome::Succeeded {
                    result: Bytes::from_static(b"{}"),
                },
            ),
            report(tasks[1], 1, failed),
            grant(tasks[4], lost),
            Command::LoseWorkers {
                workers: vec![lost],
            },
            Command::CancelTask { task: tasks[2] },
            Command::CancelJob {
                job: JobId::at(1, 1),
            },
        ],
        vec![
            submit(None, &["exec", "sum"]),
            Command::CancelJob {
                job: JobId::at(3, 0),
            },
            Command::AdvanceTime,
        ],
        vec![submit(None, &["sum"]), grant(TaskId::at(4, 0), live)],
        vec![
            schedule("hourly", Some(4_000)),
            schedule("paused", None),
            Command::TickSchedule(TickSchedule {
                name: "hourly".to_owned(),
                generation: 5,
                tick_ms: 4_000,
                next_tick_ms: Some(3_604_000),
                action: TickAction::Fire,
            }),
        ],
    ];
    for (at, commands) in entries.into_iter().enumerate() {
        let stamp = Stamp {
            index: at as u64 + 1,
            now_ms: 1_000 * at as u64,
        };
        table.apply(stamp, commands, &mut Vec::new());
    }
    table.check_invariants();
    assert_eq!(
        table.retired_keys.records().len(),
        1,
        "one job is forgotten"
    );
    assert_eq!(table.leases().count(), 1);
    table
}

fn written(table: &Table) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.freeze().write(&mut bytes).expect("memory takes all");
    bytes
}

fn read(mut bytes: &[u8]) -> Result<Table, SnapshotError> {
    Table::read(&mut bytes)
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = written(&table());
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged).is_err(), "bit {bit} of {}", bytes.len() * 8);
    }
}

#[test]
fn every_missing_end_is_refused() {
    let bytes = written(&table());
    for length in 0..bytes.len() {
        let error = read(&bytes[..length]).expect_err("it is not whole");
        assert!(
            matches!(error, SnapshotError::Io(_)),
            "{length} of {}: {error}",
            bytes.len()
        );
    }
}

#[test]
fn unknown_versions_and_foreign_files_give_different_errors() {
    let mut bytes = written(&table());
    bytes[MAGIC.len()] = 9;
    assert!(matches!(
        read(&bytes),
        Err(SnapshotError::UnknownVersion(9))
    ));
    assert!(matches!(
        read(b"%PDF-1.7 and so on"),
        Err(SnapshotError::NotASnapshot)
    ));
}

#[test]
fn reading_stops_at_the_end() {
    let mut bytes = written(&table());
    let length = bytes.len();
    bytes.extend(b"something else");
    let mut rest = &bytes[..];
    let table = Table::read(&mut rest).expect("it is whole");
    assert_eq!(
        (rest, table.digest()),
        (&bytes[length..], self::table().digest())
    );
}

/// A snapshot that version 1 wrote. It never changes, because it must stay readable for ever.
const GOLDEN: &[u8] = include_bytes!("../../tests/golden/table.v1.snapshot");

#[test]
fn version_1_reads_and_writes_as_ever() {
    let read = read(GOLDEN).expect("it is whole");
    read.check_invariants();
    assert_eq!(read.digest(), table().digest());
    assert!(
        written(&table()) == GOLDEN,
        "this code writes another format under the same version"
    );
}

/// Returns the records of a snapshot, without their end.
fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &bytes[MAGIC.len() + 1..];
    let mut records = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (record, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        records.push(record.to_vec());
        rest = after;
    }
    records.pop();
    records
}

/// Returns a snapshot of these records with a matching digest.
fn sealed(records: &[Vec<u8>]) -> Vec<u8> {
    let mut digest = Digest::new();
    records.iter().for_each(|record| digest.add(record));
    let end = encoded(
        &Record::End {
            digest: digest.value(),
        },
        Vec::new(),
    )
    .expect("small");
    let mut bytes = [MAGIC.as_slice(), &[crate::snapshot::VERSION]].concat();
    for record in records.iter().chain([&end]) {
        bytes.extend((record.len() as u32).to_le_bytes());
        bytes.extend(record);
    }
    bytes
}

#[test]
fn a_wrong_table_under_a_right_digest_is_no_table_or_a_sound_one() {
    let whole = records(&written(&table()));
    assert_eq!(
        read(&sealed(&whole)).expect("unchanged").digest(),
        table().digest()
    );
    let sound = |records: &[Vec<u8>]| match read(&sealed(records)) {
        Ok(table) => {
            table.check_invariants();
            true
        }
        Err(_) => false,
    };
    let mut refused = 0;
    for (at, record) in whole.iter().enumerate() {
        for bit in (at % 3..record.len() * 8).step_by(3) {
            let mut changed = whole.clone();
            changed[at][bit / 8] ^= 1 << (bit % 8);
            refused += usize::from(!sound(&changed));
        }
        let mut missing = whole.clone();
        missing.remove(at);
        let mut twice = whole.clone();
        twice.insert(at, record.clone());
        let mut swapped = whole.clone();
        swapped.swap(at, (at + 1) % whole.len());
        refused += [missing, twice, swapped]
            .iter()
            .filter(|records| !sound(records))
            .count();
    }
    assert!(refused > 500, "only {refused} refused");
}

#[test]
fn a_snapshot_in_which_two_unfinished_tasks_share_a_unique_key_is_refused() {
    let Command::SubmitJob(mut job) = submit(None, &["nap", "sum"]) else {
        unreachable!("it submits");
    };
    for (task, key) in job.tasks.iter_mut().zip(["mail:41", "mail:42"]) {
        task.unique = Some(Unique {
            key: key.to_owned(),
            on_duplicate: OnDuplicate::Refuse,
        });
    }
    let mut table = Table::new(Limits::default());
    let stamp = Stamp {
        index: 1,
        now_ms: 1_000,
    };
    table.apply(stamp, vec![Command::SubmitJob(job)], &mut Vec::new());
    let records = records(&written(&table));
    assert!(read(&sealed(&records)).is_ok());
    let forged: Vec<Vec<u8>> = records
        .iter()
        .map(|record| {
            let mut record = record.clone();
            if let Some(at) = record.windows(7).position(|bytes| bytes == b"mail:42") {
                record[at + 6] = b'1';
            }
            record
        })
        .collect();
    assert_ne!(records, forged);
    assert!(matches!(
        read(&sealed(&forged)),
        Err(SnapshotError::Unsound(_))
    ));
}

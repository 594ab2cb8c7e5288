//! The micro-benchmarks. Each group begins with its calibration, to which the other results of the group are compared.
//!
//! The log is written to `TRIARCH_MICRO_DIR`. Default: the system's temporary folder.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use triarch_micro::calibration;
use triarch_micro::life::{TaskLife, grant, leases, report_of, reports, submission};
use triarch_micro::log::LogAppend;
use triarch_raft::testing::bench_hooks::{decode_entry, encode_entry};
use triarch_table::command::codec::{decode_command, encode_command};

/// Number of tasks in a batch.
const BATCH: usize = 100;

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(600));
    group
}

fn in_memory<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = group(criterion, name);
    group.bench_function("calibration", |bench| {
        bench.iter(|| black_box(calibration::memory()))
    });
    group
}

/// The part of a task's life that is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Submit,
    Grant,
    Report,
}

/// Runs `count` tasks through their complete lifecycle, and times one part of it.
fn lives(life: &mut TaskLife, count: usize, rounds: u64, timed: Part) -> Duration {
    let mut total = Duration::ZERO;
    let mut time = |part: Part, begun: Instant| {
        if part == timed {
            total += begun.elapsed();
        }
    };
    for _ in 0..rounds {
        let commands = vec![submission(count, life.next_request())];
        let begun = Instant::now();
        black_box(life.apply(commands));
        time(Part::Submit, begun);

        let commands = vec![grant(life.plan(count))];
        let begun = Instant::now();
        let replies = life.apply(commands);
        time(Part::Grant, begun);

        let leases = leases(replies);
        assert_eq!(leases.len(), count, "all were granted");
        let commands = reports(&leases);
        let begun = Instant::now();
        black_box(life.apply(commands));
        time(Part::Report, begun);
        life.forget();
    }
    total
}

fn apply(criterion: &mut Criterion) {
    let mut group = in_memory(criterion, "apply");
    // Enough tasks that no part finds everything in the caches of the processor.
    let mut life = TaskLife::new(4, 250, 20_000);
    let mut part = |name: &str, count: usize, part: Part| {
        group.bench_function(name, |bench| {
            bench.iter_custom(|rounds| lives(&mut life, count, rounds, part))
        });
    };
    part("submit_1", 1, Part::Submit);
    part("submit_100", BATCH, Part::Submit);
    part("grant_100", BATCH, Part::Grant);
    part("report_100", BATCH, Part::Report);
    let jobs = life.jobs();
    assert!(jobs < 3_000, "what had finished was kept: {jobs} jobs");
    group.finish();
}

fn plan(criterion: &mut Criterion) {
    let mut group = in_memory(criterion, "plan");
    for (name, workers, slots, queued) in [
        ("short_queue_few_workers", 4, 250, 1_000),
        ("long_queue_few_workers", 4, 250, 200_000),
        ("short_queue_many_workers", 5_000, 8, 1_000),
        ("long_queue_many_workers", 5_000, 8, 200_000),
    ] {
        let life = TaskLife::new(workers, slots, queued);
        assert_eq!(life.plan(BATCH).grants.len(), BATCH);
        group.bench_function(name, |bench| bench.iter(|| black_box(life.plan(BATCH))));
    }
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut group = in_memory(criterion, "codec");
    let submit = submission(BATCH, 7);
    let report = report_of(&TaskLife::new(4, 250, BATCH).plan(BATCH));
    for (name, command) in [("submit_100", submit), ("report_100", report)] {
        group.bench_function(format!("encode_{name}"), |bench| {
            bench.iter(|| black_box(encode_command(black_box(&command))))
        });
        let bytes = encode_command(&command);
        group.bench_function(format!("decode_{name}"), |bench| {
            bench.iter(|| black_box(decode_command(black_box(&bytes))))
        });
    }
    // As with many unbatched submissions: many small commands in one entry.
    let commands = vec![Bytes::from(encode_command(&submission(1, 7))); BATCH];
    group.bench_function("encode_entry_100", |bench| {
        bench.iter(|| black_box(encode_entry(7, black_box(&commands))))
    });
    let entry = encode_entry(7, &commands);
    group.bench_function("decode_entry_100", |bench| {
        bench.iter(|| black_box(decode_entry(black_box(entry.clone()))))
    });
    group.finish();
}

fn log(criterion: &mut Criterion) {
    let folder = match std::env::var_os("TRIARCH_MICRO_DIR") {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    }
    .expect("a folder to write to");
    let mut group = group(criterion, "log");
    let disk = calibration::Disk::new(folder.path()).expect("a file to write to");
    group.bench_function("calibration", |bench| bench.iter(|| disk.sync()));
    let mut appending = LogAppend::new(&folder.path().join("log"), 512).expect("a log");
    for count in [1, 16, 256] {
        group.bench_function(format!("append_{count}"), |bench| {
            bench.iter(|| appending.append(count).expect("the disk takes it"))
        });
    }
    group.finish();
}

criterion_group!(benches, apply, plan, codec, log);
criterion_main!(benches);

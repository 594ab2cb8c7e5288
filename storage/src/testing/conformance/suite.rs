//! The cases of the suite, in order.

use std::ops::Range;

use bytes::Bytes;

use super::harness::{Acks, Harness, position, record};
use super::random;
use crate::testing::seeded_random::{SEED_VARIABLE, seeds};
use crate::{LogPosition, LogRecord, LogState, StorageError};

/// Runs the whole suite. `make` returns a fresh, empty log each time.
pub fn check(make: impl Fn() -> Box<dyn Harness>) {
    type Case = (&'static str, fn(&mut dyn Harness));
    let cases: [Case; 13] = [
        ("an empty log", empty),
        ("entries are read back", read_back),
        ("reads are bounded", bounded_reads),
        ("payloads of every size", payload_sizes),
        ("acknowledged entries survive", acknowledged_survives),
        ("completions in order", completions_in_order),
        ("truncation", truncation),
        ("truncation of everything", truncation_of_everything),
        ("purging", purging),
        ("purging past the end", purging_past_the_end),
        ("the vote", vote),
        ("the committed position", committed),
        ("closing", closing),
    ];
    for (name, case) in cases {
        eprintln!("conformance: {name}");
        case(&mut *make());
    }
    for seed in seeds(12) {
        eprintln!("conformance: random writes and crashes, replay with {SEED_VARIABLE}={seed}");
        random::writes_and_crashes(&mut *make(), seed);
    }
}

fn records(term: u64, indexes: Range<u64>) -> Vec<LogRecord> {
    indexes.map(|index| record(term, index, 100)).collect()
}

fn append(harness: &dyn Harness, records: Vec<LogRecord>) {
    let mut acks = Acks::new();
    harness
        .log()
        .append(records, acks.completion())
        .expect("a healthy log appends");
    acks.wait();
}

fn truncate_after(harness: &dyn Harness, after: Option<LogPosition>) {
    let mut acks = Acks::new();
    harness
        .log()
        .truncate_after(after, acks.completion())
        .expect("a healthy log truncates");
    acks.wait();
}

fn purge(harness: &dyn Harness, upto: LogPosition) {
    let mut acks = Acks::new();
    harness
        .log()
        .purge(upto, acks.completion())
        .expect("a healthy log purges");
    acks.wait();
}

fn save_vote(harness: &dyn Harness, vote: &'static [u8]) {
    let mut acks = Acks::new();
    harness
        .log()
        .save_vote(Bytes::from_static(vote), acks.completion())
        .expect("a healthy log saves votes");
    acks.wait();
}

fn all(harness: &dyn Harness) -> Vec<LogRecord> {
    harness
        .log()
        .read(0..u64::MAX, usize::MAX)
        .expect("a healthy log is readable")
}

fn state(purged: Option<LogPosition>, last: Option<LogPosition>) -> LogState {
    LogState { purged, last }
}

fn empty(harness: &mut dyn Harness) {
    for _ in 0..2 {
        assert_eq!(harness.log().state(), LogState::default());
        assert_eq!(all(harness), []);
        assert_eq!(harness.log().vote(), None);
        assert_eq!(harness.log().committed(), None);
        append(harness, Vec::new());
        harness.reopen();
    }
}

fn read_back(harness: &mut dyn Harness) {
    append(harness, records(1, 0..1));
    append(harness, records(1, 1..5));
    append(harness, records(2, 5..8));
    let mut expected = records(1, 0..5);
    expected.extend(records(2, 5..8));
    for _ in 0..2 {
        assert_eq!(all(harness), expected);
        assert_eq!(harness.log().state(), state(None, Some(position(2, 7))));
        harness.reopen();
    }
    // Readable at once, durable or not.
    let mut acks = Acks::new();
    let log = harness.log();
    log.append(records(2, 8..9), acks.completion())
        .expect("a healthy log appends");
    assert_eq!(log.state().last, Some(position(2, 8)));
    assert_eq!(log.read(8..9, 1).expect("readable"), records(2, 8..9));
    acks.wait();
}

fn bounded_reads(harness: &mut dyn Harness) {
    append(harness, records(1, 0..20));
    let log = harness.log();
    let read = |range: Range<u64>, bytes_max| log.read(range, bytes_max).expect("readable");
    assert_eq!(read(3..7, usize::MAX), records(1, 3..7));
    assert_eq!(read(3..3, usize::MAX), []);
    assert_eq!(read(18..30, usize::MAX), records(1, 18..20));
    assert_eq!(read(20..30, usize::MAX), []);
    assert_eq!(read(0..20, 0), records(1, 0..1), "at least one");
    assert_eq!(read(0..20, 1), records(1, 0..1));
    assert_eq!(read(0..20, 100), records(1, 0..1));
    assert_eq!(read(0..20, 101), records(1, 0..2));
    assert_eq!(read(5..20, 1_000), records(1, 5..15));
}

fn payload_sizes(harness: &mut dyn Harness) {
    let sizes = [
        0,
        1,
        4_036,
        4_037,
        4_038,
        4_095,
        4_096,
        4_097,
        8_191,
        8_192,
        100_000,
        1 << 20,
        0,
    ];
    let records: Vec<LogRecord> = (0..)
        .zip(sizes)
        .map(|(index, bytes)| record(1, index, bytes))
        .collect();
    append(harness, records.clone());
    assert_eq!(all(harness), records);
    harness.crash();
    assert_eq!(all(harness), records);
    harness.reopen();
    assert_eq!(all(harness), records);
}

fn acknowledged_survives(harness: &mut dyn Harness) {
    for index in 0..10 {
        append(harness, records(1, index..index + 1));
        save_vote(harness, b"a vote");
        harness.crash();
        assert_eq!(all(harness), records(1, 0..index + 1));
        assert_eq!(harness.log().vote(), Some(Bytes::from_static(b"a vote")));
    }
}

fn completions_in_order(harness: &mut dyn Harness) {
    let mut acks = Acks::new();
    let log = harness.log();
    for index in 0..200 {
        log.append(records(1, index..index + 1), acks.completion())
            .expect("a healthy log appends");
        if index % 7 == 0 {
            log.save_vote(Bytes::from_static(b"vote"), acks.completion())
                .expect("a healthy log saves votes");
        }
    }
    acks.wait();
    drop(log);
    harness.crash();
    assert_eq!(all(harness), records(1, 0..200));
}

fn truncation(harness: &mut dyn Harness) {
    append(harness, records(1, 0..10));
    truncate_after(harness, Some(position(1, 9)));
    assert_eq!(all(harness), records(1, 0..10), "nothing is after the last");
    truncate_after(harness, Some(position(1, 5)));
    assert_eq!(all(harness), records(1, 0..6));
    assert_eq!(harness.log().state().last, Some(position(1, 5)));
    harness.crash();
    assert_eq!(all(harness), records(1, 0..6));

    // Ordered with the writes that follow, without waiting in between.
    let mut acks = Acks::new();
    let log = harness.log();
    log.truncate_after(Some(position(1, 2)), acks.completion())
        .expect("a healthy log truncates");
    log.append(records(2, 3..8), acks.completion())
        .expect("a healthy log appends");
    log.truncate_after(Some(position(2, 6)), acks.completion())
        .expect("a healthy log truncates");
    log.append(records(3, 7..9), acks.completion())
        .expect("a healthy log appends");
    drop(log);
    let mut expected = records(1, 0..3);
    expected.extend(records(2, 3..7));
    expected.extend(records(3, 7..9));
    assert_eq!(all(harness), expected);
    acks.wait();
    harness.crash();
    assert_eq!(all(harness), expected);
    harness.reopen();
    assert_eq!(all(harness), expected);
}

fn truncation_of_everything(harness: &mut dyn Harness) {
    append(harness, records(1, 0..5));
    truncate_after(harness, None);
    assert_eq!(harness.log().state(), LogState::default());
    harness.crash();
    assert_eq!(all(harness), []);
    append(harness, records(2, 0..3));
    harness.crash();
    assert_eq!(all(harness), records(2, 0..3));

    purge(harness, position(2, 1));
    truncate_after(harness, None);
    let only_purged = state(Some(position(2, 1)), Some(position(2, 1)));
    assert_eq!(harness.log().state(), only_purged);
    harness.crash();
    assert_eq!(harness.log().state(), only_purged);
    append(harness, records(3, 2..4));
    harness.reopen();
    assert_eq!(all(harness), records(3, 2..4));
}

fn purging(harness: &mut dyn Harness) {
    append(harness, records(1, 0..3_000));
    purge(harness, position(1, 1_999));
    let expected = state(Some(position(1, 1_999)), Some(position(1, 2_999)));
    for _ in 0..2 {
        assert_eq!(harness.log().state(), expected);
        assert_eq!(all(harness), records(1, 2_000..3_000));
        let purged = harness.log().read(0..2_000, usize::MAX).expect("readable");
        assert_eq!(purged, []);
        harness.crash();
    }
    purge(harness, position(1, 5));
    assert_eq!(harness.log().state(), expected, "purged further already");
    append(harness, records(1, 3_000..3_001));
    purge(harness, position(1, 3_000));
    let nothing_left = state(Some(position(1, 3_000)), Some(position(1, 3_000)));
    assert_eq!(harness.log().state(), nothing_left);
    harness.reopen();
    assert_eq!(harness.log().state(), nothing_left);
    append(harness, records(2, 3_001..3_003));
    harness.crash();
    assert_eq!(all(harness), records(2, 3_001..3_003));
}

fn purging_past_the_end(harness: &mut dyn Harness) {
    // A snapshot from the leader has this effect on a node that lags behind.
    append(harness, records(1, 0..10));
    let mut acks = Acks::new();
    let log = harness.log();
    log.purge(position(4, 100), acks.completion())
        .expect("a healthy log purges");
    log.append(records(4, 101..105), acks.completion())
        .expect("a healthy log appends");
    acks.wait();
    drop(log);
    for _ in 0..2 {
        assert_eq!(
            harness.log().state(),
            state(Some(position(4, 100)), Some(position(4, 104)))
        );
        assert_eq!(all(harness), records(4, 101..105));
        harness.crash();
    }
    purge(harness, position(5, 200));
    harness.crash();
    assert_eq!(
        harness.log().state(),
        state(Some(position(5, 200)), Some(position(5, 200)))
    );
    assert_eq!(all(harness), []);
}

fn vote(harness: &mut dyn Harness) {
    save_vote(harness, b"first");
    harness.crash();
    assert_eq!(harness.log().vote(), Some(Bytes::from_static(b"first")));
    save_vote(harness, b"second");
    save_vote(harness, b"");
    harness.crash();
    assert_eq!(harness.log().vote(), Some(Bytes::new()));
    save_vote(harness, b"third");
    harness.reopen();
    assert_eq!(harness.log().vote(), Some(Bytes::from_static(b"third")));
    // Seen at once, durable or not.
    let mut acks = Acks::new();
    let log = harness.log();
    log.save_vote(Bytes::from_static(b"fourth"), acks.completion())
        .expect("a healthy log saves votes");
    assert_eq!(log.vote(), Some(Bytes::from_static(b"fourth")));
    acks.wait();
}

fn committed(harness: &mut dyn Harness) {
    let save = |harness: &dyn Harness, committed| {
        harness
            .log()
            .save_committed(committed)
            .expect("a healthy log notes");
    };
    append(harness, records(1, 0..10));
    save(harness, Some(position(1, 4)));
    assert_eq!(harness.log().committed(), Some(position(1, 4)));
    harness.reopen();
    assert_eq!(
        harness.log().committed(),
        Some(position(1, 4)),
        "a good close keeps it"
    );
    save(harness, Some(position(1, 7)));
    append(harness, records(1, 10..11));
    harness.crash();
    assert_eq!(
        harness.log().committed(),
        Some(position(1, 7)),
        "a later write carries it"
    );
    save(harness, Some(position(1, 50)));
    assert_eq!(
        harness.log().committed(),
        Some(position(1, 10)),
        "never past the last entry"
    );
    save(harness, None);
    harness.reopen();
    assert_eq!(harness.log().committed(), None);
}

fn closing(harness: &mut dyn Harness) {
    append(harness, records(1, 0..5));
    let log = harness.log();
    let mut acks = Acks::new();
    log.append(records(1, 5..6), acks.completion())
        .expect("a healthy log appends");
    log.close().expect("a healthy log closes");
    acks.wait();
    log.close().expect("closing twice is closing once");
    let refused = [
        log.append(records(1, 6..7), Box::new(|_| ())),
        log.truncate_after(None, Box::new(|_| ())),
        log.purge(position(1, 1), Box::new(|_| ())),
        log.save_vote(Bytes::new(), Box::new(|_| ())),
        log.save_committed(None),
        log.read(0..9, 1).map(|_| ()),
    ];
    for result in refused {
        assert!(matches!(result, Err(StorageError::Stopped(_))));
    }
    drop(log);
    harness.reopen();
    assert_eq!(all(harness), records(1, 0..6));
}

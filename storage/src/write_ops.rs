//! Write operations on a log, and the assertions that every engine makes on them. They keep the log gapless.
//!
//! Raft never asks for an operation that these refuse. A violation is a bug of the caller, and continuing would write a
//! wrong log, so they panic with the values. A new log that was never purged may start at any index.

use bytes::Bytes;

use crate::{LogPosition, LogRecord};

/// One write, as the engines queue it.
#[derive(Debug, Clone)]
pub(crate) enum WriteOp {
    Append(Vec<LogRecord>),
    TruncateAfter(Option<LogPosition>),
    Purge(LogPosition),
    Vote(Bytes),
    Committed(Option<LogPosition>),
}

/// Asserts that appended entries follow `last` and each other without a hole.
pub(crate) fn assert_appendable(last: Option<LogPosition>, records: &[LogRecord]) {
    let mut previous = last;
    for record in records {
        if let Some(previous) = previous {
            assert_eq!(
                record.position.index,
                previous.index + 1,
                "entry {:?} appended after {previous:?}",
                record.position
            );
        }
        previous = Some(record.position);
    }
}

/// Asserts that a truncation does not cross the purged position, and names an entry that the log holds.
///
/// `held` is the entry that the log holds at the index of `after`, if there is one.
pub(crate) fn assert_truncatable(
    purged: Option<LogPosition>,
    held: Option<LogPosition>,
    after: LogPosition,
) {
    if let Some(purged) = purged {
        assert!(
            after.index >= purged.index,
            "truncation after {after:?} would cross what was purged, {purged:?}"
        );
    }
    if let Some(held) = held {
        assert_eq!(
            held, after,
            "truncation after an entry this log does not hold"
        );
    }
}

/// Asserts that a purge names the entry that the log holds at that index, if it holds one.
pub(crate) fn assert_purgeable(held: Option<LogPosition>, upto: LogPosition) {
    if let Some(held) = held {
        assert_eq!(
            held, upto,
            "purge up to an entry that conflicts with this log"
        );
    }
}

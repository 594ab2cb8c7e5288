//! Write operations on a log, and the assertions every engine holds its caller to: they keep the log gapless.
//!
//! Raft never asks for anything these refuse. A breach is a bug above, and going on would write a log that lies, so they
//! panic with the values. A start of a new, never purged log may be at any index.

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

/// Appended entries follow `last` and each other without a hole.
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

/// A truncation keeps everything that was purged, and names an entry the log holds.
///
/// `held` is what the log holds at the index of `after`, if it holds that index.
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

/// A purge names the entry the log holds at that index, if it holds one.
pub(crate) fn assert_purgeable(held: Option<LogPosition>, upto: LogPosition) {
    if let Some(held) = held {
        assert_eq!(
            held, upto,
            "purge up to an entry that conflicts with this log"
        );
    }
}

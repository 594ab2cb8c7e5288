//! The log of one node, opened as in the product.

use std::path::Path;
use std::sync::mpsc::channel;

use bytes::Bytes;
use triarch_storage::{LogPosition, LogRecord, LogStore, SledLog, SledLogOptions, StorageError};

/// A log that keeps its latest entries and purges the others.
pub struct LogAppend {
    log: SledLog,
    next: u64,
    payload: Bytes,
}

/// Number of entries that are kept. Older ones are purged as the log grows.
const KEPT: u64 = 10_000;

impl LogAppend {
    /// Creates a log in `folder`, for entries of this size in bytes.
    pub fn new(folder: &Path, payload_bytes: usize) -> Result<Self, StorageError> {
        Ok(Self {
            log: SledLog::open(folder, &SledLogOptions::default())?,
            next: 0,
            payload: Bytes::from(vec![7; payload_bytes]),
        })
    }

    /// Appends this many entries, each separately, and waits until all are durable.
    pub fn append(&mut self, count: u64) -> Result<(), StorageError> {
        let (sender, durable) = channel();
        for _ in 0..count {
            let record = LogRecord {
                position: position(self.next),
                payload: self.payload.clone(),
            };
            let sender = sender.clone();
            let done = Box::new(move |result| drop(sender.send(result)));
            self.log.append(vec![record], done)?;
            self.next += 1;
        }
        drop(sender);
        for result in durable {
            result?;
        }
        if self.next > KEPT && self.next % 1_000 < count {
            self.log
                .purge(position(self.next - KEPT), Box::new(|_| ()))?;
        }
        Ok(())
    }
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: 1,
        leader: 1,
        index,
    }
}

//! The harness through which the suite drives an engine, and the entries that it writes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::{Completion, LogPosition, LogRecord, LogStore, StorageError};

/// One log of the engine under test, empty at first.
pub trait Harness {
    /// Returns the log as it is open now.
    fn log(&self) -> Arc<dyn LogStore>;
    /// Closes the log and opens it again.
    fn reopen(&mut self);
    /// Ends the log as a power cut or a `kill -9` would, and opens what is left. No other handle to the log exists
    /// then.
    fn crash(&mut self);
}

const DEADLINE: Duration = Duration::from_secs(60);

/// Collects the results of completions, by number, in the order of their calls.
pub(super) struct Acks {
    sender: Sender<(usize, Result<(), StorageError>)>,
    receiver: Receiver<(usize, Result<(), StorageError>)>,
    issued: usize,
    heard: usize,
}

impl Acks {
    pub(super) fn new() -> Self {
        let (sender, receiver) = channel();
        Acks {
            sender,
            receiver,
            issued: 0,
            heard: 0,
        }
    }

    pub(super) fn completion(&mut self) -> Completion {
        let sender = self.sender.clone();
        let number = self.issued;
        self.issued += 1;
        // The test may have ended and stopped listening.
        Box::new(move |result| drop(sender.send((number, result))))
    }

    /// Waits until all are acknowledged, in order.
    pub(super) fn wait(&mut self) {
        while self.heard < self.issued {
            let (number, result) = self
                .receiver
                .recv_timeout(DEADLINE)
                .expect("a completion is called before the deadline");
            assert_eq!(number, self.heard, "completions are called in order");
            result.expect("a healthy log acknowledges");
            self.heard += 1;
        }
    }

    /// Takes the results received so far. Returns how many writes are acknowledged.
    pub(super) fn poll(&mut self) -> usize {
        while let Ok((number, result)) = self.receiver.try_recv() {
            assert_eq!(number, self.heard, "completions are called in order");
            result.expect("a healthy log acknowledges");
            self.heard += 1;
        }
        self.heard
    }
}

pub(super) fn position(term: u64, index: u64) -> LogPosition {
    LogPosition {
        term,
        leader: term % 3 + 1,
        index,
    }
}

pub(super) fn record(term: u64, index: u64, payload_bytes: usize) -> LogRecord {
    let payload: Vec<u8> = (0..payload_bytes)
        .map(|byte| (byte as u64 * 31 + index * 7 + term) as u8)
        .collect();
    LogRecord {
        position: position(term, index),
        payload: payload.into(),
    }
}

//! How fast the log makes entries durable on this disk:
//! `cargo run --release -p triarch-storage --example append_rate -- <directory> [entries]`
//!
//! Appends entries of 512 bytes, a given number in flight at a time, purging as it goes, and prints the rates.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use bytes::Bytes;
use triarch_storage::{
    Completion, LogPosition, LogRecord, LogStore, SledLog, SledLogOptions, StorageError,
};

type Answer = Receiver<Result<(), StorageError>>;

fn completion() -> (Completion, Answer) {
    let (sender, receiver) = channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: 1,
        leader: 1,
        index,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments
        .next()
        .map(PathBuf::from)
        .ok_or("say in which directory")?;
    let entries: u64 = arguments.next().map_or(Ok(20_000), |count| count.parse())?;
    let payload = Bytes::from(vec![7; 512]);

    let begun = Instant::now();
    let log = SledLog::open(&directory, &SledLogOptions::default())?;
    let held = log.state().last.map_or(0, |last| last.index + 1);
    println!("opened in {:?}, {held} entries so far", begun.elapsed());
    let mut next = held;
    for in_flight in [1, 16, 256] {
        let count = if in_flight == 1 {
            entries / 10
        } else {
            entries
        };
        let begun = Instant::now();
        let mut waiting: VecDeque<Answer> = VecDeque::new();
        for index in next..next + count {
            if waiting.len() == in_flight
                && let Some(oldest) = waiting.pop_front()
            {
                oldest.recv()??;
            }
            let (done, answer) = completion();
            let record = LogRecord {
                position: position(index),
                payload: payload.clone(),
            };
            log.append(vec![record], done)?;
            waiting.push_back(answer);
            if index % 5_000 == 0 && index > 10_000 {
                log.purge(position(index - 10_000), Box::new(|_| ()))?;
            }
        }
        for answer in waiting {
            answer.recv()??;
        }
        next += count;
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        println!("{in_flight:>4} in flight: {rate:>9.0} entries/s");
    }
    log.close()?;
    Ok(())
}

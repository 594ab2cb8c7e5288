//! Recorder of a run: submissions, results, and their latency.
//!
//! Every task's payload carries its number and its due time, so that its worker knows both without a request. The
//! recorder keeps one bit per task.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::latency::LatencyHistogram;

/// Submissions, results and latencies of one run.
#[derive(Debug)]
pub struct RunRecorder {
    epoch: Instant,
    submitted: AtomicU64,
    jobs: AtomicU64,
    /// Time when the first submission was due, the last was acknowledged, and the last task ended.
    times: Mutex<Times>,
    ended: Mutex<EndedTasks>,
    ended_notify: Notify,
    /// Latency from the due time of a submission until it was acknowledged.
    pub submit: LatencyHistogram,
    /// Latency from the due time of a task until a worker had it.
    pub start: LatencyHistogram,
    /// Latency from the due time of a task until its result was accepted, or seen by the client that waited for it.
    pub life: LatencyHistogram,
    /// Latency from the due time of a submission until its client had seen the end.
    pub round_trip: LatencyHistogram,
    /// Latency of reading one job.
    pub read: LatencyHistogram,
    /// Latency of listing one page of tasks, and of all queues.
    pub list: LatencyHistogram,
}

#[derive(Debug, Default, Clone, Copy)]
struct Times {
    began: Option<Instant>,
    submitted: Option<Instant>,
    ended: Option<Instant>,
}

impl Times {
    fn until(&self, end: Option<Instant>) -> Duration {
        let pair = self.began.zip(end);
        pair.map_or(Duration::ZERO, |(began, end)| {
            end.saturating_duration_since(began)
        })
    }
}

#[derive(Debug, Default)]
struct EndedTasks {
    numbers: BitSet,
    accepted: u64,
    duplicates: u64,
    refused: BTreeMap<String, u64>,
    per_second: Vec<u64>,
}

/// Totals of a run.
#[derive(Debug, Clone)]
pub struct RunTotals {
    pub submitted: u64,
    pub jobs: u64,
    pub accepted: u64,
    pub duplicates: u64,
    pub refused: BTreeMap<String, u64>,
    /// Time from when the first submission was due until the last was acknowledged.
    pub submit_time: Duration,
    /// Time from when the first submission was due until the last task ended.
    pub life_time: Duration,
    /// Number of tasks that ended in each second of the run.
    pub per_second: Vec<u64>,
}

/// Maximum number of seconds for which the number of ended tasks is recorded.
const SECONDS_RECORDED_MAX: usize = 7_200;

impl RunRecorder {
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
            submitted: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            times: Mutex::default(),
            ended: Mutex::default(),
            ended_notify: Notify::new(),
            submit: LatencyHistogram::default(),
            start: LatencyHistogram::default(),
            life: LatencyHistogram::default(),
            round_trip: LatencyHistogram::default(),
            read: LatencyHistogram::default(),
            list: LatencyHistogram::default(),
        }
    }

    /// Returns the microseconds from the recorder's creation to `at`.
    pub fn at_us(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Records that a submission was acknowledged.
    pub fn submitted(&self, tasks: u64, due: Instant) {
        self.submit.add(due.elapsed());
        self.submitted.fetch_add(tasks, Ordering::Relaxed);
        self.jobs.fetch_add(1, Ordering::Relaxed);
        let mut times = self.times.lock();
        times.began = Some(times.began.map_or(due, |began| began.min(due)));
        times.submitted = Some(Instant::now());
    }

    /// Records that all submitted tasks have ended by now.
    pub fn all_ended(&self) {
        self.times.lock().ended = Some(Instant::now());
    }

    /// Records that a task was found to have ended as it should, after `life_us` microseconds.
    pub fn found(&self, number: u64, life_us: u64) {
        {
            let mut ended = self.ended.lock();
            match ended.numbers.set(number) {
                true => ended.accepted += 1,
                false => ended.duplicates += 1,
            }
        }
        self.life.add_all([life_us]);
    }

    /// Returns the number of tasks acknowledged so far.
    pub fn submitted_so_far(&self) -> u64 {
        self.submitted.load(Ordering::Relaxed)
    }

    /// Records that these tasks ended as they should, now.
    pub fn accepted(&self, headers: &[PayloadHeader]) {
        let now = Instant::now();
        let times = {
            let mut times = self.times.lock();
            times.ended = Some(now);
            *times
        };
        {
            let mut ended = self.ended.lock();
            for header in headers {
                match ended.numbers.set(header.number) {
                    true => ended.accepted += 1,
                    false => ended.duplicates += 1,
                }
            }
            let second = times.until(Some(now)).as_secs() as usize;
            if second < SECONDS_RECORDED_MAX {
                if ended.per_second.len() <= second {
                    ended.per_second.resize(second + 1, 0);
                }
                ended.per_second[second] += headers.len() as u64;
            }
        }
        let now_us = self.at_us(now);
        self.life.add_all(
            headers
                .iter()
                .map(|header| now_us.saturating_sub(header.due_us)),
        );
        self.ended_notify.notify_one();
    }

    /// Records a result that was not accepted, or is invalid.
    pub fn refused(&self, why: &str) {
        let mut ended = self.ended.lock();
        *ended.refused.entry(why.to_owned()).or_default() += 1;
    }

    /// Returns the number of tasks that have ended as they should so far.
    pub fn accepted_so_far(&self) -> u64 {
        self.ended.lock().accepted
    }

    /// Waits until a task has ended since the last call. Supports one waiter.
    pub async fn next_end(&self) {
        self.ended_notify.notified().await;
    }

    pub fn totals(&self) -> RunTotals {
        let ended = self.ended.lock();
        let times = *self.times.lock();
        RunTotals {
            submitted: self.submitted.load(Ordering::Relaxed),
            jobs: self.jobs.load(Ordering::Relaxed),
            accepted: ended.accepted,
            duplicates: ended.duplicates,
            refused: ended.refused.clone(),
            submit_time: times.until(times.submitted),
            life_time: times.until(times.ended),
            per_second: ended.per_second.clone(),
        }
    }
}

/// Header of a task's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadHeader {
    pub number: u64,
    /// Due time, in microseconds since the recorder was created.
    pub due_us: u64,
}

/// Number of digits of each number in a payload.
const DIGITS: usize = 20;

impl PayloadHeader {
    /// Builds a payload of `bytes` bytes with this header: a string of two numbers and padding.
    pub fn payload(self, bytes: u32) -> Box<RawValue> {
        let bytes = bytes as usize;
        let mut text = String::with_capacity(bytes);
        text.push_str(&format!(
            "\"{:0width$} {:0width$} ",
            self.number,
            self.due_us,
            width = DIGITS
        ));
        while text.len() + 1 < bytes {
            text.push('x');
        }
        text.push('"');
        RawValue::from_string(text).expect("a string without anything to escape is JSON")
    }

    /// Parses the header of a payload.
    pub fn read(payload: Option<&RawValue>) -> Option<Self> {
        let text = payload?.get();
        let number = text.get(1..=DIGITS)?;
        let due = text.get(DIGITS + 2..2 * DIGITS + 2)?;
        Some(Self {
            number: number.parse().ok()?,
            due_us: due.parse().ok()?,
        })
    }
}

/// Set of numbers from 0.
#[derive(Debug, Default)]
struct BitSet(Vec<u64>);

impl BitSet {
    /// Adds a number. Returns whether it is new.
    fn set(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1_u64 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_size_and_carries_its_header() {
        let header = PayloadHeader {
            number: 42,
            due_us: 1_234_567,
        };
        for bytes in [48, 256, 4_096] {
            let payload = header.payload(bytes);
            assert_eq!(payload.get().len(), bytes as usize);
            assert_eq!(PayloadHeader::read(Some(&payload)), Some(header));
        }
        let other = RawValue::from_string("\"short\"".to_owned()).expect("JSON");
        assert_eq!(PayloadHeader::read(Some(&other)), None);
        assert_eq!(PayloadHeader::read(None), None);
    }

    #[test]
    fn a_task_that_ends_twice_counts_as_a_duplicate() {
        let recorder = RunRecorder::new();
        let header = |number| PayloadHeader { number, due_us: 0 };
        recorder.accepted(&[header(0), header(700), header(3)]);
        recorder.accepted(&[header(700)]);
        let totals = recorder.totals();
        assert_eq!((totals.accepted, totals.duplicates), (3, 1));
        assert_eq!(totals.per_second.iter().sum::<u64>(), 4);
    }
}

//! The spool of an attempt's output. It is kept after the leader has it, because a new leader begins with none.
//!
//! # Invariants
//!
//! - The kept output is bounded, whatever an attempt writes. The oldest is dropped first, and the gap is marked.
//! - Writing never waits for the cluster.
//! - A piece is sent again until the leader confirms it, or does not want it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::output_tail;
use crate::output_tail::{Decoder, StreamOffsets, Tail};
use crate::wire::{LogChunk, OutputEnds, OutputStream};

/// Wakes the sender of output. One for all attempts of a worker.
#[derive(Debug, Default)]
pub(super) struct OutputSignal {
    written: Notify,
    awaited: Notify,
    settled: Notify,
}

impl OutputSignal {
    /// Waits until something was written since the last wait. For one waiter at a time.
    pub(super) async fn written(&self) {
        self.written.notified().await;
    }

    /// Waits until an attempt that is about to end waits for its output to be sent.
    pub(super) async fn awaited(&self) {
        self.awaited.notified().await;
    }

    /// Announces that something was sent, or given up.
    pub(super) fn settled(&self) {
        self.settled.notify_waiters();
    }
}

/// The output of one attempt, from the executor to the leader.
#[derive(Debug)]
pub(super) struct Spool {
    state: Mutex<State>,
    output_signal: Arc<OutputSignal>,
}

#[derive(Debug)]
struct State {
    tail: Tail,
    /// Offsets up to which the leader has the output, by its last response.
    sent: StreamOffsets,
    /// Whether output that the leader lacked was sent again. If it is still missing, the leader drops it.
    sent_again: bool,
    /// Whether output is missing between the part that the leader has and the next one.
    gap: bool,
    /// Whether no more output of the attempt is sent: the leader refuses it, or the outcome contains it.
    unwanted: bool,
}

/// Output in flight.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) chunks: Vec<LogChunk>,
    /// For each chunk, whether it leaves a gap after what was sent before.
    pub(super) gaps: Vec<bool>,
    upto: StreamOffsets,
}

impl Sending {
    /// Returns its approximate size in a request, in bytes.
    pub(super) fn cost(&self) -> usize {
        self.chunks.iter().map(output_tail::cost).sum()
    }
}

impl Spool {
    pub(super) fn new(bytes_max: usize, output_signal: Arc<OutputSignal>) -> Self {
        Self {
            state: Mutex::new(State {
                tail: Tail::new(bytes_max),
                sent: StreamOffsets::default(),
                sent_again: false,
                gap: false,
                unwanted: false,
            }),
            output_signal,
        }
    }

    pub(super) fn write(&self, stream: OutputStream, text: &str) {
        if !text.is_empty() {
            self.lock().tail.push(stream, text);
            self.output_signal.written.notify_one();
        }
    }

    /// Gives up unsent output, because it is reported otherwise.
    pub(super) fn abandon(&self) {
        self.lock().unwanted = true;
    }

    /// Returns whether there is something to send.
    pub(super) fn has_unsent(&self) -> bool {
        let state = self.lock();
        !state.unwanted && state.tail.ends() != state.sent
    }

    /// Takes output that the leader lacks, up to a bound.
    pub(super) fn take(&self, bytes_max: usize) -> Option<Sending> {
        let mut state = self.lock();
        if state.unwanted {
            return None;
        }
        let part = state.tail.since(state.sent, bytes_max);
        if part.chunks.is_empty() {
            // Everything, if there was any, has been dropped.
            state.sent = part.ends;
            return None;
        }
        let mut at = state.sent;
        let follows = |chunk: &LogChunk| {
            let follows = chunk.offset == at.of(chunk.stream);
            *at.of_mut(chunk.stream) = chunk.offset + chunk.text.len() as u64;
            follows
        };
        let follows: Vec<bool> = part.chunks.iter().map(follows).collect();
        Some(Sending {
            gaps: follows
                .iter()
                .map(|follows| state.gap || !follows)
                .collect(),
            chunks: part.chunks,
            upto: part.ends,
        })
    }

    /// Applies the leader's answer to what was sent. `None` means that it wants nothing of this attempt.
    pub(super) fn settle(&self, sent: &Sending, ends: Option<&OutputEnds>) {
        let mut state = self.lock();
        let Some(ends) = ends else {
            state.unwanted = true;
            return;
        };
        let has = StreamOffsets {
            stdout: ends.stdout,
            stderr: ends.stderr,
        };
        let lacks = OutputStream::ALL
            .into_iter()
            .any(|stream| has.of(stream) < sent.upto.of(stream));
        if lacks && !state.sent_again {
            // Most likely a new leader.
            state.sent_again = true;
            state.sent = has;
        } else {
            state.sent = sent.upto;
            state.gap = lacks;
        }
    }

    /// Sends everything again, because a new leader has nothing yet.
    pub(super) fn send_again(&self) {
        let mut state = self.lock();
        state.sent = StreamOffsets::default();
        state.sent_again = false;
        state.gap = false;
        state.unwanted = false;
    }

    /// Waits until everything is sent, but at most `limit`. Users may miss the last output of an attempt, because its
    /// result must not wait for it.
    pub(super) async fn delivered(&self, limit: Duration) {
        let delivered = async {
            loop {
                let settled = self.output_signal.settled.notified();
                if !self.has_unsent() {
                    return;
                }
                self.output_signal.awaited.notify_one();
                settled.await;
            }
        };
        let _ = tokio::time::timeout(limit, delivered).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock panics halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes bytes to one of the attempt's streams, for users who watch it. A character may be split between pieces.
/// Invalid UTF-8 is replaced.
#[derive(Debug)]
pub struct OutputWriter {
    spool: Arc<Spool>,
    stream: OutputStream,
    decoder: Decoder,
    text_bytes: u64,
}

impl OutputWriter {
    pub(super) fn new(spool: Arc<Spool>, stream: OutputStream) -> Self {
        Self {
            spool,
            stream,
            decoder: Decoder::default(),
            text_bytes: 0,
        }
    }

    /// Writes bytes. Never waits.
    pub fn write(&mut self, bytes: &[u8]) {
        let text = self.decoder.decode(bytes);
        self.text_bytes += text.len() as u64;
        self.spool.write(self.stream, &text);
    }

    /// Returns the length of the text written so far, in bytes.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Ends the stream: replaces an incomplete character at its end. Returns the length of its whole text, in bytes.
    pub fn finish(&mut self) -> u64 {
        let text = self.decoder.finish();
        self.text_bytes += text.len() as u64;
        self.spool.write(self.stream, text);
        self.text_bytes
    }
}

impl Drop for OutputWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use OutputStream::{Stderr, Stdout};

    use super::*;

    fn spool(bytes_max: usize) -> Spool {
        Spool::new(bytes_max, Arc::default())
    }

    fn ends(stdout: u64, stderr: u64) -> OutputEnds {
        OutputEnds {
            task: "t1-0".to_owned(),
            token: 1,
            stdout,
            stderr,
        }
    }

    fn chunks(sending: &Sending) -> Vec<(u64, &str, bool)> {
        let chunks = sending.chunks.iter().zip(&sending.gaps);
        chunks
            .map(|(chunk, gap)| (chunk.offset, chunk.text.as_str(), *gap))
            .collect()
    }

    fn take(spool: &Spool) -> Sending {
        spool.take(1 << 20).expect("something to send")
    }

    #[test]
    fn output_that_the_leader_has_is_not_sent_again() {
        let spool = spool(1 << 20);
        spool.write(Stdout, "one");
        let first = take(&spool);
        assert_eq!(chunks(&first), [(0, "one", false)]);
        // Its answer was lost.
        let again = take(&spool);
        assert_eq!(chunks(&again), chunks(&first));
        spool.write(Stdout, "two");
        spool.settle(&again, Some(&ends(3, 0)));
        let next = take(&spool);
        assert_eq!(chunks(&next), [(3, "two", false)]);
        spool.settle(&next, Some(&ends(6, 0)));
        assert!(!spool.has_unsent() && spool.take(1 << 20).is_none());
    }

    #[test]
    fn a_leader_that_lacks_the_beginning_is_sent_it_once() {
        let spool = spool(1 << 20);
        spool.write(Stdout, "one");
        spool.settle(&take(&spool), Some(&ends(3, 0)));
        spool.write(Stdout, "two");
        spool.settle(&take(&spool), Some(&ends(0, 0)));
        let again = take(&spool);
        assert_eq!(chunks(&again), [(0, "onetwo", false)]);
        // The leader has no room for it: the output after it is sent as it is.
        spool.settle(&again, Some(&ends(0, 0)));
        assert!(!spool.has_unsent());
        spool.write(Stdout, "three");
        let rest = take(&spool);
        assert_eq!(chunks(&rest), [(6, "three", true)]);
        spool.settle(&rest, Some(&ends(11, 0)));
        spool.write(Stdout, "four");
        assert_eq!(chunks(&take(&spool)), [(11, "four", false)]);
    }

    #[test]
    fn a_new_leader_is_sent_what_is_kept() {
        let spool = spool(8 << 10);
        spool.write(Stderr, "warning");
        spool.write(Stdout, &"x".repeat(20 << 10));
        spool.settle(&take(&spool), Some(&ends(20 << 10, 7)));
        spool.send_again();
        let again = take(&spool);
        let (offset, text, gap) = chunks(&again)[0];
        assert!(gap && offset > 0);
        assert_eq!(offset + text.len() as u64, 20 << 10);
    }

    #[test]
    fn unwanted_output_is_not_sent() {
        let spool = spool(1 << 20);
        spool.write(Stdout, "one");
        let sending = take(&spool);
        spool.settle(&sending, None);
        spool.write(Stdout, "two");
        assert!(!spool.has_unsent() && spool.take(1 << 20).is_none());
        spool.send_again();
        assert_eq!(chunks(&take(&spool)), [(0, "onetwo", false)]);
    }

    #[tokio::test]
    async fn an_attempt_that_ends_waits_for_its_output_but_not_for_ever() {
        let spool = Arc::new(spool(1 << 20));
        spool.write(Stdout, "one");
        spool.delivered(Duration::from_millis(1)).await;
        let waiting = tokio::spawn({
            let spool = spool.clone();
            async move { spool.delivered(Duration::from_secs(600)).await }
        });
        spool.output_signal.awaited().await;
        spool.settle(&take(&spool), Some(&ends(3, 0)));
        spool.output_signal.settled();
        waiting.await.expect("does not panic");
    }

    #[test]
    fn a_writer_takes_characters_in_pieces() {
        let spool = Arc::new(spool(1 << 20));
        let mut writer = OutputWriter::new(spool.clone(), Stdout);
        for byte in "a€\u{1F600}".bytes() {
            writer.write(&[byte]);
        }
        writer.write(b"\xe2");
        drop(writer);
        assert_eq!(chunks(&take(&spool)), [(0, "a€😀\u{fffd}", false)]);
    }
}

//! Live output buffer: output of running attempts, in memory, for one leader term.
//!
//! It serves clients that follow a task; nothing else depends on it. It never enters the log: workers send it again to
//! a new leader, and the result of an attempt is in the table.
//!
//! # Invariants
//!
//! - Memory is bounded. Past the bound, the attempt with the oldest last write is dropped, whether it has ended or not.

use std::collections::{BTreeMap, HashMap};

use triarch_sdk::output_tail::{OutputStream, StreamOffsets, Tail, TailPart};
use triarch_table::Token;

/// Maximum memory for the output of one attempt, in bytes.
const ATTEMPT_BYTES_MAX: usize = 256 << 10;
/// Maximum memory for the output of all attempts together, in bytes.
const TOTAL_BYTES_MAX: usize = 64 << 20;
/// Memory that an attempt takes in addition to its output, in bytes.
const ATTEMPT_OVERHEAD_BYTES: usize = 512;

/// A piece of output, as a worker sends it.
#[derive(Debug, Clone, Copy)]
pub struct OutputChunk<'a> {
    /// The task id as the worker spelled it.
    pub task: &'a str,
    /// Lease of the attempt that wrote it.
    pub token: Token,
    /// Stream it was written to.
    pub stream: OutputStream,
    /// Offset of its first byte in that stream.
    pub offset: u64,
    /// Set if the worker no longer has the output before this piece.
    pub gap: bool,
    /// Text of the piece.
    pub text: &'a str,
}

/// Output of the attempts of one term. See the module.
pub struct LiveOutput {
    attempts: HashMap<Token, AttemptOutput>,
    /// Attempts by the number of their last write.
    order: BTreeMap<u64, Token>,
    next_write: u64,
    cost: usize,
    cost_max: usize,
}

struct AttemptOutput {
    tail: Tail,
    last_write: u64,
}

impl Default for LiveOutput {
    fn default() -> Self {
        Self::new(TOTAL_BYTES_MAX)
    }
}

impl LiveOutput {
    fn new(cost_max: usize) -> Self {
        Self {
            attempts: HashMap::new(),
            order: BTreeMap::new(),
            next_write: 0,
            cost: 0,
            cost_max,
        }
    }

    /// Takes a piece of output if it continues what the buffer has. Returns the current ends of the attempt's streams.
    pub fn place(&mut self, chunk: &OutputChunk<'_>) -> StreamOffsets {
        let token = chunk.token;
        let write = self.next_write;
        self.next_write += 1;
        let live = self.attempts.entry(token).or_insert_with(|| {
            self.cost += ATTEMPT_OVERHEAD_BYTES;
            AttemptOutput {
                tail: Tail::new(ATTEMPT_BYTES_MAX),
                last_write: write,
            }
        });
        self.order.remove(&live.last_write);
        self.order.insert(write, token);
        live.last_write = write;
        let before = live.tail.cost();
        live.tail
            .insert_at(chunk.stream, chunk.offset, chunk.text, chunk.gap);
        let ends = live.tail.ends();
        self.cost = self.cost + live.tail.cost() - before;
        while self.cost > self.cost_max {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            if let Some(dropped) = self.attempts.remove(&oldest) {
                self.cost -= dropped.tail.cost() + ATTEMPT_OVERHEAD_BYTES;
            }
        }
        ends
    }

    /// Returns output of an attempt from these offsets on; `None` if none of it is kept.
    pub fn since(&self, token: Token, from: StreamOffsets) -> Option<TailPart> {
        let live = self.attempts.get(&token)?;
        Some(live.tail.since(from, usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(token: u64, offset: u64, text: &str) -> OutputChunk<'_> {
        OutputChunk {
            task: "t1-0",
            token: Token(token),
            stream: OutputStream::Stdout,
            offset,
            gap: false,
            text,
        }
    }

    fn text(output: &LiveOutput, token: u64) -> Option<String> {
        let part = output.since(Token(token), StreamOffsets::default())?;
        Some(part.chunks.into_iter().map(|chunk| chunk.text).collect())
    }

    #[test]
    fn output_of_each_attempt_is_kept_apart() {
        let mut output = LiveOutput::default();
        output.place(&chunk(1, 0, "one"));
        output.place(&chunk(2, 0, "two"));
        assert_eq!(output.place(&chunk(1, 3, " more")).stdout, 8);
        assert_eq!(text(&output, 1).as_deref(), Some("one more"));
        assert_eq!(text(&output, 2).as_deref(), Some("two"));
        assert_eq!(text(&output, 3), None);
    }

    #[test]
    fn output_with_a_gap_before_it_is_refused_until_it_is_sent_from_the_gap_on() {
        let mut output = LiveOutput::default();
        assert_eq!(output.place(&chunk(1, 10, "late")).stdout, 0);
        assert_eq!(output.place(&chunk(1, 0, "0123456789late")).stdout, 14);
        assert_eq!(text(&output, 1).as_deref(), Some("0123456789late"));
    }

    #[test]
    fn past_the_memory_bound_the_attempt_silent_for_longest_is_dropped() {
        let mut output = LiveOutput::new(100_000);
        let piece = "x".repeat(30_000);
        for token in 1..=3 {
            output.place(&chunk(token, 0, &piece));
        }
        output.place(&chunk(1, 30_000, "y"));
        output.place(&chunk(4, 0, &piece));
        assert!(output.cost <= 100_000);
        let kept = (1..=4).filter(|token| text(&output, *token).is_some());
        assert_eq!(kept.collect::<Vec<_>>(), [1, 3, 4]);
        for token in 10..10_000 {
            output.place(&chunk(token, 0, "z"));
        }
        assert!(output.cost <= 100_000 && output.attempts.len() == output.order.len());
        assert!(output.attempts.len() <= 100_000 / ATTEMPT_OVERHEAD_BYTES);
    }
}

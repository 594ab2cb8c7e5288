//! Live output buffer: output of running attempts, in memory, for one leader term.
//!
//! It serves clients that follow a task. Workers send it again to a new leader. When an attempt ends, its beginning and
//! its end enter the log ([`task_output`](triarch_areas::task_output)), unless its result contains them.
//!
//! # Invariants
//!
//! - Memory is bounded. Past the bound, the attempt with the oldest last write is dropped, whether it has ended or not.

use std::collections::{BTreeMap, HashMap};

use triarch_areas::task_output::{KeptOutput, KeptStream};
use triarch_sdk::json_text::beginning;
use triarch_sdk::output_tail::{OutputStream, StreamOffsets, Tail, TailPart};
use triarch_table::{TaskId, Token};

/// Maximum memory for the output of one attempt, in bytes.
const ATTEMPT_BYTES_MAX: usize = 256 << 10;
/// Maximum memory for the output of all attempts together, in bytes.
const TOTAL_BYTES_MAX: usize = 64 << 20;
/// Maximum bytes of the beginning of a stream that outlive a change of leader.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Maximum bytes of the end of a stream that outlive a change of leader.
const TAIL_BYTES_MAX: usize = 48 << 10;
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
    /// Beginnings of the streams, which stay when the tail moves on.
    heads: [String; OutputStream::ALL.len()],
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
                heads: Default::default(),
                tail: Tail::new(ATTEMPT_BYTES_MAX),
                last_write: write,
            }
        });
        self.order.remove(&live.last_write);
        self.order.insert(write, token);
        live.last_write = write;
        let before = live.cost();
        live.extend_head(chunk);
        live.tail
            .insert_at(chunk.stream, chunk.offset, chunk.text, chunk.gap);
        let ends = live.tail.ends();
        self.cost = self.cost + live.cost() - before;
        while self.cost > self.cost_max {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            if let Some(dropped) = self.attempts.remove(&oldest) {
                self.cost -= dropped.cost() + ATTEMPT_OVERHEAD_BYTES;
            }
        }
        ends
    }

    /// Returns output of an attempt from these offsets on; `None` if none of it is kept.
    pub fn since(&self, token: Token, from: StreamOffsets) -> Option<TailPart> {
        let live = self.attempts.get(&token)?;
        Some(live.tail.since(from, usize::MAX))
    }

    /// Returns the beginning and the end of what an attempt has written; `None` if none of it is here.
    pub fn kept(&self, task: TaskId, token: Token) -> Option<KeptOutput> {
        let live = self.attempts.get(&token)?;
        let part = live.tail.since(StreamOffsets::default(), usize::MAX);
        let stream = |stream: OutputStream| {
            let chunks = part.chunks.iter().filter(|chunk| chunk.stream == stream);
            let pieces = chunks.map(|chunk| (chunk.offset, chunk.text.as_str()));
            kept_stream(&live.heads[stream as usize], pieces)
        };
        let kept = KeptOutput {
            task,
            token,
            stdout: stream(OutputStream::Stdout),
            stderr: stream(OutputStream::Stderr),
        };
        let empty = KeptStream::default();
        (kept.stdout != empty || kept.stderr != empty).then_some(kept)
    }
}

impl AttemptOutput {
    fn cost(&self) -> usize {
        self.tail.cost() + self.heads.iter().map(String::len).sum::<usize>()
    }

    fn extend_head(&mut self, chunk: &OutputChunk<'_>) {
        let head = &mut self.heads[chunk.stream as usize];
        let known = usize::try_from(chunk.offset).ok();
        let known = known.and_then(|offset| head.len().checked_sub(offset));
        if let Some(more) = known.and_then(|known| chunk.text.get(known..)) {
            let room = HEAD_BYTES_MAX.saturating_sub(head.len());
            head.push_str(beginning(more, room));
        }
    }
}

/// Returns the beginning and the end of a stream, from its beginning and from the pieces of its end.
fn kept_stream<'a>(head: &str, pieces: impl Iterator<Item = (u64, &'a str)>) -> KeptStream {
    // The last pieces that follow on each other.
    let (mut at, mut end) = (0, String::new());
    for (offset, text) in pieces {
        if offset != at + end.len() as u64 {
            (at, end) = (offset, String::new());
        }
        end.push_str(text);
    }
    let known = (head.len() as u64).checked_sub(at);
    let known = known.and_then(|known| usize::try_from(known).ok());
    let rest = match known.and_then(|known| end.get(known..)) {
        Some(rest) => (head.len() as u64, rest),
        // The head reaches beyond the end of the pieces.
        None if known.is_some() => (head.len() as u64, ""),
        None => (at, end.as_str()),
    };
    let (rest_at, rest) = rest;
    if rest_at == head.len() as u64 && head.len() + rest.len() <= HEAD_BYTES_MAX + TAIL_BYTES_MAX {
        return KeptStream {
            head: format!("{head}{rest}"),
            ..KeptStream::default()
        };
    }
    let mut from = rest.len().saturating_sub(TAIL_BYTES_MAX);
    while !rest.is_char_boundary(from) {
        from += 1;
    }
    KeptStream {
        head: head.to_owned(),
        tail_at: rest_at + from as u64,
        tail: rest[from..].to_owned(),
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
    fn the_beginning_and_the_end_of_an_attempt_are_kept_to_the_character() {
        let mut output = LiveOutput::default();
        let task = TaskId::at(1, 0);
        assert_eq!(output.kept(task, Token(1)), None);
        output.place(&chunk(1, 0, "one "));
        output.place(&chunk(1, 2, "e two\n"));
        let kept = output.kept(task, Token(1)).expect("written");
        assert_eq!(
            (kept.stdout.head.as_str(), kept.stdout.tail.as_str()),
            ("one two\n", "")
        );
        assert_eq!(kept.stderr, KeptStream::default());

        // A long one: three bytes a character, so that no bound is between two.
        let text = "€".repeat(30_000);
        for (at, piece) in text.as_bytes().chunks(9_000).enumerate() {
            let piece = std::str::from_utf8(piece).expect("whole characters");
            output.place(&chunk(2, at as u64 * 9_000, piece));
        }
        let KeptStream {
            head,
            tail_at,
            tail,
        } = output.kept(task, Token(2)).expect("written").stdout;
        assert!(
            text.starts_with(&head) && head.len() > HEAD_BYTES_MAX - 4,
            "{}",
            head.len()
        );
        assert!(
            text.ends_with(&tail) && tail.len() > TAIL_BYTES_MAX - 4,
            "{}",
            tail.len()
        );
        assert_eq!(tail_at as usize + tail.len(), text.len());

        // The worker no longer has the beginning.
        let gap = OutputChunk {
            gap: true,
            ..chunk(3, 70_000, "the end")
        };
        output.place(&gap);
        let KeptStream {
            head,
            tail_at,
            tail,
        } = output.kept(task, Token(3)).expect("written").stdout;
        assert_eq!(
            (head.as_str(), tail_at, tail.as_str()),
            ("", 70_000, "the end")
        );
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

//! What running attempts write, as far as a leader keeps it: in memory, for one term, bounded.
//!
//! It is there for those who watch. Nothing depends on it: it never enters the log, a new leader is sent it again by the
//! workers, and what an attempt's outcome tells is in the table. Past the bound, whatever was not written to for the
//! longest time is dropped, ended or not.

use std::collections::{BTreeMap, HashMap};

use triarch_sdk::output_tail::{StreamOffsets, Tail, TailPart};
use triarch_sdk::wire::SentChunk;
use triarch_table::{TaskId, Token, WorkerId};

use super::Lead;
use crate::leader::worker_calls::Turned;

/// So much is kept of one attempt, and of all together.
const ATTEMPT_BYTES_MAX: usize = 256 << 10;
const BYTES_MAX: usize = 64 << 20;
/// What an attempt takes besides what it wrote.
const ATTEMPT_COST: usize = 512;

/// See the module.
pub struct LiveOutput {
    attempts: HashMap<Token, Live>,
    /// The attempts by when they were last written to.
    order: BTreeMap<u64, Token>,
    next_write: u64,
    cost: usize,
    cost_max: usize,
}

struct Live {
    tail: Tail,
    written: u64,
}

impl Default for LiveOutput {
    fn default() -> Self {
        Self::new(BYTES_MAX)
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

    /// Takes a piece of what the attempt wrote, if it belongs there; tells where its streams end now.
    fn place(&mut self, token: Token, chunk: &SentChunk) -> StreamOffsets {
        let written = self.next_write;
        self.next_write += 1;
        let live = self.attempts.entry(token).or_insert_with(|| {
            self.cost += ATTEMPT_COST;
            Live {
                tail: Tail::new(ATTEMPT_BYTES_MAX),
                written,
            }
        });
        self.order.remove(&live.written);
        self.order.insert(written, token);
        live.written = written;
        let before = live.tail.cost();
        live.tail
            .insert_at(chunk.stream, chunk.offset, &chunk.text, chunk.gap);
        let ends = live.tail.ends();
        self.cost = self.cost + live.tail.cost() - before;
        while self.cost > self.cost_max {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            if let Some(dropped) = self.attempts.remove(&oldest) {
                self.cost -= dropped.tail.cost() + ATTEMPT_COST;
            }
        }
        ends
    }

    fn since(&self, token: Token, from: StreamOffsets) -> Option<TailPart> {
        let live = self.attempts.get(&token)?;
        Some(live.tail.since(from, usize::MAX))
    }
}

/// How far the leader is with the output of one attempt.
pub struct Taken {
    /// The task, as the worker spelled it.
    pub task: String,
    /// The lease.
    pub token: Token,
    /// Where its streams end here.
    pub ends: StreamOffsets,
}

impl Lead {
    /// Takes what a worker's attempts wrote. What runs under a lease that is not the worker's is left out of the answer.
    pub fn take_output(
        &self,
        worker: WorkerId,
        chunks: &[SentChunk],
    ) -> Result<Vec<Taken>, Turned> {
        let leased: Vec<Option<TaskId>> = {
            let table = self.table.read();
            self.known(&table, worker)?;
            let leased = |chunk: &SentChunk| {
                let task = chunk.task.parse().ok()?;
                let lease = table.lease(task)?;
                (lease.worker == worker && lease.token == Token(chunk.token)).then_some(task)
            };
            chunks.iter().map(leased).collect()
        };
        let mut taken: Vec<Taken> = Vec::new();
        let mut places: HashMap<Token, usize> = HashMap::new();
        let mut news: Vec<TaskId> = Vec::new();
        {
            let mut output = self.output.lock();
            for (chunk, task) in chunks.iter().zip(leased) {
                let Some(task) = task else { continue };
                let token = Token(chunk.token);
                let ends = output.place(token, chunk);
                match places.get(&token) {
                    Some(at) => taken[*at].ends = ends,
                    None => {
                        places.insert(token, taken.len());
                        news.push(task);
                        taken.push(Taken {
                            task: chunk.task.clone(),
                            token,
                            ends,
                        });
                    }
                }
            }
        }
        for task in news {
            self.table.waiters.task_news(task);
        }
        Ok(taken)
    }

    /// What is kept of an attempt's output from these places on; none, when nothing of it is kept.
    pub fn output_since(&self, token: Token, from: StreamOffsets) -> Option<TailPart> {
        self.output.lock().since(token, from)
    }
}

#[cfg(test)]
mod tests {
    use triarch_sdk::wire::OutputStream;

    use super::*;

    fn chunk(offset: u64, text: &str) -> SentChunk {
        SentChunk {
            task: "t1-0".to_owned(),
            token: 0,
            stream: OutputStream::Stdout,
            offset,
            gap: false,
            text: text.to_owned(),
        }
    }

    fn text(output: &LiveOutput, token: u64) -> Option<String> {
        let part = output.since(Token(token), StreamOffsets::default())?;
        Some(part.chunks.into_iter().map(|chunk| chunk.text).collect())
    }

    #[test]
    fn attempts_are_kept_apart() {
        let mut output = LiveOutput::default();
        output.place(Token(1), &chunk(0, "one"));
        output.place(Token(2), &chunk(0, "two"));
        assert_eq!(output.place(Token(1), &chunk(3, " more")).stdout, 8);
        assert_eq!(text(&output, 1).as_deref(), Some("one more"));
        assert_eq!(text(&output, 2).as_deref(), Some("two"));
        assert_eq!(text(&output, 3), None);
    }

    #[test]
    fn what_does_not_follow_is_not_taken_but_asked_for() {
        let mut output = LiveOutput::default();
        assert_eq!(output.place(Token(1), &chunk(10, "late")).stdout, 0);
        assert_eq!(
            output.place(Token(1), &chunk(0, "0123456789late")).stdout,
            14
        );
        assert_eq!(text(&output, 1).as_deref(), Some("0123456789late"));
    }

    #[test]
    fn past_the_bound_the_longest_silent_is_dropped() {
        let mut output = LiveOutput::new(100_000);
        let piece = "x".repeat(30_000);
        for token in 1..=3 {
            output.place(Token(token), &chunk(0, &piece));
        }
        output.place(Token(1), &chunk(30_000, "y"));
        output.place(Token(4), &chunk(0, &piece));
        assert!(output.cost <= 100_000);
        let kept = (1..=4).filter(|token| text(&output, *token).is_some());
        assert_eq!(kept.collect::<Vec<_>>(), [1, 3, 4]);
        for token in 10..10_000 {
            output.place(Token(token), &chunk(0, "z"));
        }
        assert!(output.cost <= 100_000 && output.attempts.len() == output.order.len());
        assert!(output.attempts.len() <= 100_000 / ATTEMPT_COST);
    }
}

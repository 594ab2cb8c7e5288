//! The bounded tail of an attempt's output that is kept in memory, and the decoder of bytes into text.
//!
//! Workers and leaders both keep a [`Tail`]: a bounded piece of an attempt's latest output, with the offset of each
//! character in its stream. It is a convenience for users who watch an attempt. Only the attempt's result must not get
//! lost.

use std::collections::VecDeque;

use crate::wire::LogChunk;
pub use crate::wire::OutputStream;

/// Maximum length of one piece of text, in bytes. The oldest output is dropped by the piece.
const CHUNK_BYTES_MAX: usize = 4 << 10;
/// Bytes of memory that a piece costs in addition to its text.
const CHUNK_COST: usize = 64;

/// Offsets into both streams of an attempt, in bytes of text from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamOffsets {
    /// Offset in stdout.
    pub stdout: u64,
    /// Offset in stderr.
    pub stderr: u64,
}

impl StreamOffsets {
    /// Returns the offset in this stream.
    pub fn of(&self, stream: OutputStream) -> u64 {
        match stream {
            OutputStream::Stdout => self.stdout,
            OutputStream::Stderr => self.stderr,
        }
    }

    /// Returns a mutable reference to the offset in this stream.
    pub fn of_mut(&mut self, stream: OutputStream) -> &mut u64 {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

/// The latest output of an attempt, up to a bound, in the order of its arrival.
#[derive(Debug, Clone)]
pub struct Tail {
    chunks: VecDeque<LogChunk>,
    ends: StreamOffsets,
    cost: usize,
    cost_max: usize,
}

/// Part of a [`Tail`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TailPart {
    /// The pieces, in the order they were written.
    pub chunks: Vec<LogChunk>,
    /// The offsets where it ends.
    pub ends: StreamOffsets,
    /// Whether some of the requested output is no longer kept.
    pub truncated: bool,
}

impl Tail {
    /// Creates an empty tail that keeps about `bytes_max` bytes of memory.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            ends: StreamOffsets::default(),
            cost: 0,
            cost_max: bytes_max.max(CHUNK_BYTES_MAX + CHUNK_COST),
        }
    }

    /// Returns the memory it takes, in bytes.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Returns the offsets where its streams end.
    pub fn ends(&self) -> StreamOffsets {
        self.ends
    }

    /// Appends text to a stream.
    pub fn push(&mut self, stream: OutputStream, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let offset = self.ends.of(stream);
            let room = match self.chunks.back() {
                Some(last) if last.stream == stream && end(last) == offset => {
                    CHUNK_BYTES_MAX.saturating_sub(last.text.len())
                }
                Some(_) | None => 0,
            };
            let mut now = floor(rest, room);
            if now > 0 {
                if let Some(last) = self.chunks.back_mut() {
                    last.text.push_str(&rest[..now]);
                }
            } else {
                now = floor(rest, CHUNK_BYTES_MAX);
                self.cost += CHUNK_COST;
                self.chunks.push_back(LogChunk {
                    stream,
                    offset,
                    text: rest[..now].to_owned(),
                });
            }
            self.cost += now;
            *self.ends.of_mut(stream) += now as u64;
            rest = &rest[now..];
            self.drop_oldest();
        }
    }

    /// Inserts a piece at `offset`, without the part that is stored already. A piece that leaves a gap is accepted only
    /// with `gap`. Returns whether it was accepted.
    pub fn insert_at(&mut self, stream: OutputStream, offset: u64, text: &str, gap: bool) -> bool {
        let end = self.ends.of(stream);
        if offset > end {
            if !gap {
                return false;
            }
            *self.ends.of_mut(stream) = offset;
        }
        let known = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        if known < text.len() {
            self.push(stream, &text[ceil(text, known)..]);
        }
        true
    }

    /// Returns the output from these offsets on, at most about `bytes_max` bytes.
    pub fn since(&self, from: StreamOffsets, bytes_max: usize) -> TailPart {
        let mut part = TailPart {
            chunks: Vec::new(),
            ends: from,
            truncated: false,
        };
        let mut bytes = 0;
        for chunk in &self.chunks {
            let at = part.ends.of(chunk.stream);
            if end(chunk) <= at {
                continue;
            }
            if bytes >= bytes_max {
                return part;
            }
            part.truncated |= chunk.offset > at;
            let known = usize::try_from(at.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
            let known = ceil(&chunk.text, known);
            let text = &chunk.text[known..];
            let offset = chunk.offset + known as u64;
            bytes += text.len() + CHUNK_COST;
            *part.ends.of_mut(chunk.stream) = end(chunk);
            match part.chunks.last_mut() {
                Some(last) if last.stream == chunk.stream && end(last) == offset => {
                    last.text.push_str(text);
                }
                Some(_) | None => part.chunks.push(LogChunk {
                    stream: chunk.stream,
                    offset,
                    text: text.to_owned(),
                }),
            }
        }
        // All pieces of a stream may have been dropped in favour of the other.
        for stream in OutputStream::ALL {
            let end = self.ends.of(stream);
            if end > part.ends.of(stream) {
                *part.ends.of_mut(stream) = end;
                part.truncated = true;
            }
        }
        part
    }

    fn drop_oldest(&mut self) {
        while self.cost > self.cost_max {
            let Some(dropped) = self.chunks.pop_front() else {
                return;
            };
            self.cost -= cost(&dropped);
        }
    }
}

/// Returns the memory of a piece in bytes, its text included.
pub(crate) fn cost(chunk: &LogChunk) -> usize {
    chunk.text.len() + CHUNK_COST
}

/// Returns the offset where a piece ends.
fn end(chunk: &LogChunk) -> u64 {
    chunk.offset + chunk.text.len() as u64
}

/// Returns the last character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let at = at.min(text.len());
    (0..=at).rev().find(is_boundary).unwrap_or(0)
}

/// Returns the first character boundary at or after `at`.
fn ceil(text: &str, at: usize) -> usize {
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    (at..text.len()).find(is_boundary).unwrap_or(text.len())
}

/// Decodes bytes that arrive in pieces into text. A character may be split between pieces. Invalid UTF-8 is replaced,
/// exactly as [`String::from_utf8_lossy`] would in the whole.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    begun: Vec<u8>,
}

impl Decoder {
    /// Returns the text of these bytes, less an incomplete character at their end.
    pub fn decode(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.begun);
        let mut text = String::with_capacity(bytes.len());
        let mut at = 0;
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            at += chunk.valid().len();
            let invalid = chunk.invalid();
            let is_last = at + invalid.len() == bytes.len();
            if is_last && may_go_on(invalid) {
                self.begun = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            at += invalid.len();
        }
        text
    }

    /// Returns the replacement for an incomplete last character, or nothing.
    pub fn finish(&mut self) -> &'static str {
        if std::mem::take(&mut self.begun).is_empty() {
            ""
        } else {
            "\u{fffd}"
        }
    }
}

/// Returns whether these last bytes are invalid only because more may follow.
fn may_go_on(bytes: &[u8]) -> bool {
    let incomplete =
        |error: std::str::Utf8Error| error.valid_up_to() == 0 && error.error_len().is_none();
    std::str::from_utf8(bytes).is_err_and(incomplete)
}

#[cfg(test)]
mod tests {
    use OutputStream::{Stderr, Stdout};

    use super::*;

    const ALL: usize = usize::MAX;

    fn from(stdout: u64, stderr: u64) -> StreamOffsets {
        StreamOffsets { stdout, stderr }
    }

    fn chunks(part: &TailPart) -> Vec<(OutputStream, u64, &str)> {
        let key = |chunk: &'_ LogChunk| (chunk.stream, chunk.offset);
        let texts = part.chunks.iter().map(|chunk| chunk.text.as_str());
        part.chunks
            .iter()
            .map(key)
            .zip(texts)
            .map(|((stream, offset), text)| (stream, offset, text))
            .collect()
    }

    #[test]
    fn streams_are_read_in_order_of_arrival_and_from_any_offset() {
        let mut tail = Tail::new(1 << 20);
        tail.push(Stdout, "one ");
        tail.push(Stdout, "two ");
        tail.push(Stderr, "oops ");
        tail.push(Stdout, "three");
        let all = tail.since(from(0, 0), ALL);
        assert_eq!(
            chunks(&all),
            [
                (Stdout, 0, "one two "),
                (Stderr, 0, "oops "),
                (Stdout, 8, "three")
            ]
        );
        assert_eq!((all.ends, all.truncated), (from(13, 5), false));
        let some = tail.since(from(6, 5), ALL);
        assert_eq!(chunks(&some), [(Stdout, 6, "o three")]);
        let none = tail.since(from(13, 5), ALL);
        assert_eq!((chunks(&none), none.ends), (vec![], from(13, 5)));
        // A reader that has read more than is here, under an earlier leader.
        let ahead = tail.since(from(20, 5), ALL);
        assert_eq!(
            (chunks(&ahead), ahead.ends, ahead.truncated),
            (vec![], from(20, 5), false)
        );
    }

    #[test]
    fn the_oldest_is_dropped_and_missed() {
        let mut tail = Tail::new(16 << 10);
        for nth in 0..10_000 {
            tail.push(Stdout, &format!("line {nth}\n"));
            assert!(tail.cost() <= 16 << 10);
        }
        let all = tail.since(from(0, 0), ALL);
        assert!(all.truncated);
        let text = &all.chunks[0].text;
        assert!(text.ends_with("line 9999\n") && text.len() > 8 << 10);
        assert_eq!(all.chunks[0].offset + text.len() as u64, all.ends.stdout);
        let rest = tail.since(from(all.ends.stdout - 10, 0), ALL);
        assert_eq!((chunks(&rest)[0].2, rest.truncated), ("line 9999\n", false));
    }

    #[test]
    fn a_stream_that_was_dropped_for_the_other_is_missed() {
        let mut tail = Tail::new(8 << 10);
        tail.push(Stderr, "first");
        tail.push(Stdout, &"x".repeat(20 << 10));
        let all = tail.since(from(20 << 10, 0), ALL);
        assert_eq!(
            (chunks(&all), all.ends.stderr, all.truncated),
            (vec![], 5, true)
        );
    }

    #[test]
    fn many_small_pieces_are_bounded_too() {
        let mut tail = Tail::new(8 << 10);
        for _ in 0..10_000 {
            tail.push(Stdout, "o");
            tail.push(Stderr, "e");
        }
        assert!(tail.cost() <= 8 << 10);
        assert!(tail.chunks.len() <= (8 << 10) / CHUNK_COST);
    }

    #[test]
    fn pieces_are_placed_once_and_only_where_they_belong() {
        let mut tail = Tail::new(1 << 20);
        assert!(tail.insert_at(Stdout, 0, "abc", false));
        assert!(tail.insert_at(Stdout, 0, "abc", false), "again");
        assert!(tail.insert_at(Stdout, 1, "bcde", false), "overlapping");
        assert!(!tail.insert_at(Stdout, 7, "h", false), "not the next");
        assert_eq!(chunks(&tail.since(from(0, 0), ALL)), [(Stdout, 0, "abcde")]);
        assert!(tail.insert_at(Stdout, 7, "h", true));
        let all = tail.since(from(0, 0), ALL);
        assert_eq!(chunks(&all), [(Stdout, 0, "abcde"), (Stdout, 7, "h")]);
        assert!(all.truncated);
    }

    #[test]
    fn characters_are_never_cut() {
        let mut tail = Tail::new(1 << 20);
        let text = "€".repeat(5_000);
        tail.push(Stdout, &text);
        let all = tail.since(from(0, 0), ALL);
        assert_eq!(all.chunks[0].text, text);
        // An offset inside a character is invalid, so the text begins with the next one.
        assert_eq!(tail.since(from(1, 0), ALL).chunks[0].offset, 3);
        assert!(tail.insert_at(Stdout, 14_999, "€€", false));
    }

    #[test]
    fn a_part_is_bounded_and_goes_on() {
        let mut tail = Tail::new(1 << 20);
        let text = "x".repeat(100_000);
        tail.push(Stdout, &text);
        let (mut places, mut read) = (from(0, 0), String::new());
        while read.len() < text.len() {
            let part = tail.since(places, 10_000);
            assert!(!part.truncated && part.chunks[0].text.len() < 20_000);
            read.push_str(&part.chunks[0].text);
            places = part.ends;
        }
        assert_eq!(read, text);
    }

    #[test]
    fn bytes_become_the_same_text_however_they_come() {
        let bytes = b"a\xe2\x82\xac\xff b\xf0\x9f\x98\x80\xe2\x82 c\xc3\xf0\x9f".as_slice();
        let whole = String::from_utf8_lossy(bytes);
        for step in 1..=bytes.len() {
            let mut decoder = Decoder::default();
            let mut text: String = bytes
                .chunks(step)
                .map(|some| decoder.decode(some))
                .collect();
            text.push_str(decoder.finish());
            assert_eq!(text, whole, "{step} at once");
        }
    }
}

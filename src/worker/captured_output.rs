//! Captured output of a command: read to its end, of which the beginning and the end are kept.
//!
//! People need the end of an output most: it says why a command failed. The beginning says how it was started. What lies
//! between is counted.

use std::collections::VecDeque;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use triarch_sdk::wire::{Omitted, RawOutput};
use triarch_sdk::worker::OutputWriter;

/// Default capacity of a pipe in bytes. A larger read gains nothing.
const CHUNK_BYTES: usize = 64 << 10;
/// Maximum bytes of JSON that one stream takes of a result, however it is escaped. Both streams then fit into the
/// megabyte that a result may have.
const JSON_BYTES_MAX: usize = 480 << 10;
/// Maximum bytes of JSON of a text whose bytes are in the result too.
const JSON_BYTES_MAX_BESIDE_RAW: usize = 120 << 10;
/// Share of the beginning in a text: one part in this many.
const HEAD_SHARE: usize = 4;
/// Bytes at the end of a stream in which its last line is searched.
const LAST_LINE_BYTES: usize = 4 << 10;

/// Bounds of what is kept of each stream.
#[derive(Debug, Clone, Copy)]
pub struct OutputBounds {
    /// Bytes kept of the beginning.
    pub head_bytes: usize,
    /// Bytes kept of the end.
    pub tail_bytes: usize,
}

impl Default for OutputBounds {
    fn default() -> Self {
        Self {
            head_bytes: 64 << 10,
            tail_bytes: 192 << 10,
        }
    }
}

/// One stream of a command, as far as it is kept.
#[derive(Debug)]
pub struct CapturedOutput {
    bounds: OutputBounds,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    /// Bytes read.
    total: u64,
    /// Bytes of the text that they make.
    text_bytes: u64,
    /// Whether more may have been written than was read.
    incomplete: bool,
}

/// The output of one stream as a result contains it.
#[derive(Debug, Default)]
pub struct OutputText {
    /// Text, with a line in place of what is left out.
    pub text: String,
    /// Part that is left out of the text.
    pub omitted: Option<Omitted>,
    /// Bytes of a stream that is not UTF-8.
    pub raw: Option<RawOutput>,
    /// Last line with text in it.
    pub last_line: Option<String>,
    /// Whether a part of the output is missing.
    pub truncated: bool,
}

impl CapturedOutput {
    /// Creates an empty one.
    pub fn new(bounds: OutputBounds) -> Self {
        Self {
            bounds,
            head: Vec::new(),
            tail: VecDeque::new(),
            total: 0,
            text_bytes: 0,
            incomplete: false,
        }
    }

    /// Reads `from` to its end, so that the writer is never blocked. Shows it to clients that follow the task. Kept bytes
    /// stay when this future is cancelled.
    pub async fn drain(
        &mut self,
        from: &mut pipe::Receiver,
        live: &mut OutputWriter,
    ) -> io::Result<()> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        loop {
            chunk.clear();
            if from.read_buf(&mut chunk).await? == 0 {
                self.text_bytes = live.finish();
                return Ok(());
            }
            live.write(&chunk);
            self.text_bytes = live.text_bytes();
            self.push(&chunk);
        }
    }

    fn push(&mut self, chunk: &[u8]) {
        self.total += chunk.len() as u64;
        let room = self.bounds.head_bytes.saturating_sub(self.head.len());
        let (head, rest) = chunk.split_at(room.min(chunk.len()));
        self.head.extend_from_slice(head);
        let most = self.bounds.tail_bytes;
        let rest = &rest[rest.len().saturating_sub(most)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(most);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Marks the output as incomplete: more may have been written than was read.
    pub fn mark_incomplete(&mut self) {
        self.incomplete = true;
    }

    /// Returns the output as a result contains it.
    pub fn into_text(mut self) -> OutputText {
        let omitted_bytes = self.total - (self.head.len() + self.tail.len()) as u64;
        let tail = self.tail.make_contiguous();
        let mut kept = self.head;
        let mut cut = kept.len();
        let mut omitted = None;
        let is_utf8 = if omitted_bytes == 0 {
            kept.extend_from_slice(tail);
            std::str::from_utf8(&kept).is_ok()
        } else {
            // A character that the cut divides belongs to what is left out.
            cut = whole_characters(&kept);
            let after = first_character(tail);
            let left_out = omitted_bytes + (kept.len() - cut + after) as u64;
            kept.truncate(cut);
            kept.extend_from_slice(&tail[after..]);
            omitted = Some(Omitted {
                at: cut as u64,
                bytes: left_out,
                resumes_at: cut as u64 + left_out,
            });
            std::str::from_utf8(&kept[..cut]).is_ok() && std::str::from_utf8(&kept[cut..]).is_ok()
        };
        let mut text = if is_utf8 {
            Text::new(&kept, omitted.map(|_| cut), self.text_bytes, JSON_BYTES_MAX)
        } else {
            Text::new(
                &kept,
                omitted.map(|_| cut),
                self.text_bytes,
                JSON_BYTES_MAX_BESIDE_RAW,
            )
        };
        let last_line = last_line(&kept[omitted.map_or(0, |_| cut)..]);
        // The number of bytes is known exactly; the text may count replacements in their place.
        if let (Some(of_text), Some(of_bytes)) = (&mut text.omitted, omitted)
            && !text.was_shortened
        {
            of_text.bytes = of_bytes.bytes;
        }
        let raw = (!is_utf8).then(|| RawOutput {
            base64: STANDARD.encode(&kept),
            omitted,
        });
        OutputText {
            truncated: text.omitted.is_some() || self.incomplete,
            text: text.joined(),
            omitted: text.omitted,
            raw,
            last_line,
        }
    }
}

/// Beginning and end of a text.
struct Text {
    head: String,
    tail: String,
    omitted: Option<Omitted>,
    /// Whether it is shorter than the bytes that were kept.
    was_shortened: bool,
}

impl Text {
    /// Returns the text of these bytes. If some are left out at `cut`, or if it exceeds `json_bytes_max` as JSON, it has
    /// two parts. `text_bytes` is the length of the whole stream's text.
    fn new(kept: &[u8], cut: Option<usize>, text_bytes: u64, json_bytes_max: usize) -> Self {
        let (mut head, mut tail) = match cut {
            Some(cut) => (lossy(&kept[..cut]), lossy(&kept[cut..])),
            None => (lossy(kept), String::new()),
        };
        let fits = json_bytes(&head) + json_bytes(&tail) <= json_bytes_max;
        if !fits {
            let head_max = json_bytes_max / HEAD_SHARE;
            if cut.is_none() {
                let at = json_prefix(&head, head_max);
                tail = head.split_off(at);
            } else {
                head.truncate(json_prefix(&head, head_max));
            }
            let from = json_suffix(&tail, json_bytes_max - head_max);
            tail.drain(..from);
        }
        let omitted = (cut.is_some() || !fits).then(|| {
            let (at, end) = (head.len() as u64, tail.len() as u64);
            let resumes_at = text_bytes.saturating_sub(end).max(at);
            Omitted {
                at,
                bytes: resumes_at - at,
                resumes_at,
            }
        });
        Self {
            head,
            tail,
            omitted,
            was_shortened: !fits,
        }
    }

    fn joined(&self) -> String {
        match &self.omitted {
            Some(omitted) => [self.head.as_str(), &omitted.marker(), &self.tail].concat(),
            None => [self.head.as_str(), &self.tail].concat(),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the last line that is not blank.
fn last_line(bytes: &[u8]) -> Option<String> {
    let end = &bytes[bytes.len().saturating_sub(LAST_LINE_BYTES)..];
    let text = String::from_utf8_lossy(&end[first_character(end)..]);
    // A program that draws its progress ends a line with a carriage return only.
    let mut lines = text.rsplit(['\n', '\r']).map(str::trim);
    lines.find(|line| !line.is_empty()).map(str::to_owned)
}

/// Returns the number of bytes at the beginning that continue a character.
fn first_character(bytes: &[u8]) -> usize {
    let continued = bytes.iter().take(3);
    continued.take_while(|byte| **byte & 0xC0 == 0x80).count()
}

/// Returns the length of `bytes` without an incomplete UTF-8 sequence at its end.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let lead = bytes[tail..].iter().rposition(|byte| byte & 0xC0 != 0x80);
    let Some(at) = lead.map(|at| tail + at) else {
        return bytes.len();
    };
    let wanted = match bytes[at] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    };
    if bytes.len() - at < wanted {
        at
    } else {
        bytes.len()
    }
}

/// Returns the bytes that a character takes in JSON.
fn json_bytes_of(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => character.len_utf8(),
    }
}

fn json_bytes(text: &str) -> usize {
    text.chars().map(json_bytes_of).sum()
}

/// Returns the length of the longest prefix of `text` that takes at most `bytes_max` as JSON.
fn json_prefix(text: &str, bytes_max: usize) -> usize {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += json_bytes_of(character);
        if used > bytes_max {
            return at;
        }
    }
    text.len()
}

/// Returns where the longest suffix of `text` begins that takes at most `bytes_max` as JSON.
fn json_suffix(text: &str, bytes_max: usize) -> usize {
    let mut used = 0;
    for (at, character) in text.char_indices().rev() {
        used += json_bytes_of(character);
        if used > bytes_max {
            return at + character.len_utf8();
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use triarch_sdk::wire::OutputStream;
    use triarch_sdk::{TaskContext, worker};

    use super::*;

    /// Captures these pieces, one after the other.
    fn captured(pieces: &[&[u8]], head_bytes: usize, tail_bytes: usize) -> OutputText {
        let (_handle, context): (worker::TaskHandle, _) = TaskContext::new();
        let mut live = context.writer(OutputStream::Stdout);
        let mut output = CapturedOutput::new(OutputBounds {
            head_bytes,
            tail_bytes,
        });
        for piece in pieces {
            live.write(piece);
            output.push(piece);
        }
        output.text_bytes = live.finish();
        output.into_text()
    }

    /// Captures a text in pieces of every size, and checks that these make no difference.
    fn text(bytes: &[u8], head_bytes: usize, tail_bytes: usize) -> OutputText {
        let whole = captured(&[bytes], head_bytes, tail_bytes);
        for size in 1..bytes.len().min(9) {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let pieced = captured(&pieces, head_bytes, tail_bytes);
            assert_eq!(
                (&pieced.text, pieced.omitted),
                (&whole.text, whole.omitted),
                "{size}"
            );
        }
        whole
    }

    fn decoded(raw: &RawOutput) -> Vec<u8> {
        STANDARD.decode(&raw.base64).expect("Base64")
    }

    #[test]
    fn output_within_the_bounds_is_kept_whole() {
        for bytes in ["", "x", "0123456789", "ab€"] {
            let output = text(bytes.as_bytes(), 4, 6);
            assert_eq!(output.text, bytes);
            assert!(!output.truncated && output.omitted.is_none() && output.raw.is_none());
        }
    }

    #[test]
    fn a_long_output_keeps_its_beginning_and_its_end_with_the_count_between() {
        let output = text(b"0123456789abcdefghij", 4, 6);
        let omitted = Omitted {
            at: 4,
            bytes: 10,
            resumes_at: 14,
        };
        assert_eq!(output.omitted, Some(omitted));
        assert_eq!(output.text, format!("0123{}efghij", omitted.marker()));
        assert!(output.truncated && omitted.marker().contains(" 10 bytes "));
    }

    #[test]
    fn a_character_divided_by_a_cut_is_left_out() {
        let output = text("ab€0123456789€xyz".as_bytes(), 4, 5);
        let omitted = output.omitted.expect("something is");
        assert_eq!(output.text, format!("ab{}xyz", omitted.marker()));
        assert_eq!((omitted.at, omitted.bytes, omitted.resumes_at), (2, 16, 18));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced_and_kept_too() {
        let output = text(b"a\xffb", 10, 10);
        assert_eq!(output.text, "a\u{fffd}b");
        let raw = output.raw.expect("the bytes");
        assert_eq!(
            (decoded(&raw).as_slice(), raw.omitted),
            (&b"a\xffb"[..], None)
        );
        assert!(!output.truncated);

        let output = text(b"\xff\xff\xff\xff0123456789\xfe\xfe", 2, 4);
        let raw = output.raw.expect("the bytes");
        assert_eq!(decoded(&raw), b"\xff\xff89\xfe\xfe");
        assert_eq!(
            raw.omitted.map(|omitted| (omitted.at, omitted.bytes)),
            Some((2, 10))
        );
        let omitted = output.omitted.expect("of the text too");
        assert_eq!(omitted.bytes, 10);
        assert_eq!(omitted.resumes_at, 4 * 3 + 8, "in bytes of the text");
    }

    #[test]
    fn output_that_grows_when_escaped_is_cut_to_the_limit() {
        let bounds = OutputBounds::default();
        let zeros = vec![0; 200 << 10];
        let output = captured(&[&zeros, b"\nend"], bounds.head_bytes, bounds.tail_bytes);
        assert!(output.truncated && output.raw.is_none() && output.text.ends_with("\nend"));
        assert!(serde_json::to_string(&output.text).expect("text").len() <= JSON_BYTES_MAX + 100);
        let binary = vec![0xff; 300 << 10];
        let output = captured(&[&binary], bounds.head_bytes, bounds.tail_bytes);
        let raw = output.raw.expect("the bytes");
        assert_eq!(decoded(&raw).len(), 256 << 10);
        let json = serde_json::to_string(&(&output.text, &raw)).expect("JSON");
        assert!(json.len() <= 500 << 10, "{}", json.len());
    }

    #[test]
    fn the_last_line_is_the_last_one_written() {
        let last = |bytes: &[u8]| text(bytes, 4, 40).last_line;
        assert_eq!(last(b"one\ntwo\n\n  \n").as_deref(), Some("two"));
        assert_eq!(last(b"10%\r50%\rfailed: x").as_deref(), Some("failed: x"));
        assert_eq!(
            last(&[&[b'.'; 300][..], b"\nFATAL: no\n"].concat()).as_deref(),
            Some("FATAL: no")
        );
        assert_eq!(last(b"why").as_deref(), Some("why"));
        assert_eq!(last(b"\n \n"), None);
        assert_eq!(last(b""), None);
    }
}

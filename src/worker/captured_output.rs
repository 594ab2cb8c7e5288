//! Captured output of a command: read to its end, kept up to a limit.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use triarch_sdk::worker::OutputWriter;

/// Default capacity of a pipe in bytes. A larger read gains nothing.
const CHUNK_BYTES: usize = 64 << 10;
/// Maximum bytes of JSON that one stream takes of a result, however it is escaped. Both streams then fit into the
/// megabyte that a result may have.
const JSON_BYTES_MAX: usize = 480 << 10;

/// One stream of a command, as far as it is kept.
#[derive(Debug, Default)]
pub struct CapturedOutput {
    bytes: Vec<u8>,
    truncated: bool,
}

impl CapturedOutput {
    /// Reads `from` to its end, so that the writer is never blocked. Shows it to clients that follow the task, and
    /// keeps the first `bytes_max` bytes. Kept bytes stay when this future is cancelled.
    pub async fn drain(
        &mut self,
        mut from: pipe::Receiver,
        bytes_max: usize,
        live: &mut OutputWriter,
    ) -> io::Result<()> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES.min(bytes_max.max(1)));
        loop {
            chunk.clear();
            if from.read_buf(&mut chunk).await? == 0 {
                return Ok(());
            }
            live.write(&chunk);
            let room = bytes_max - self.bytes.len();
            self.truncated |= chunk.len() > room;
            self.bytes
                .extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
    }

    /// Marks the output as incomplete: more was, or may have been, written than is kept.
    pub fn mark_truncated(&mut self) {
        self.truncated = true;
    }

    /// Returns the output as text, and whether it was truncated. Bytes that are not UTF-8 are replaced; a character cut
    /// in two by the limit is left out.
    pub fn into_text(self) -> (String, bool) {
        let Self {
            mut bytes,
            mut truncated,
        } = self;
        if truncated {
            bytes.truncate(whole_characters(&bytes));
        }
        let mut text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        if let Some(fitting) = json_prefix(&text, JSON_BYTES_MAX) {
            text.truncate(fitting);
            truncated = true;
        }
        (text, truncated)
    }
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

/// Returns the length of the longest prefix of `text` that takes at most `bytes_max` as JSON; `None` if all of it does.
fn json_prefix(text: &str, bytes_max: usize) -> Option<usize> {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += match character {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            _ => character.len_utf8(),
        };
        if used > bytes_max {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], truncated: bool) -> (String, bool) {
        CapturedOutput {
            bytes: bytes.to_vec(),
            truncated,
        }
        .into_text()
    }

    #[test]
    fn a_character_cut_in_two_by_the_limit_is_left_out() {
        assert_eq!(text("ab€".as_bytes(), true), ("ab€".to_owned(), true));
        assert_eq!(text(&"ab€".as_bytes()[..4], true), ("ab".to_owned(), true));
        assert_eq!(text(&"ab😀".as_bytes()[..3], true), ("ab".to_owned(), true));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        assert_eq!(text(b"a\xffb", false), ("a\u{fffd}b".to_owned(), false));
        assert!(text(b"\x80\x80\x80\x80", true).1);
    }

    #[test]
    fn output_that_grows_when_escaped_is_cut_to_the_limit() {
        let (kept, truncated) = text(&vec![0; 256 << 10], false);
        assert!(truncated);
        assert!(serde_json::to_string(&kept).expect("text").len() <= JSON_BYTES_MAX + 2);
    }
}

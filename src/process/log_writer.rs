//! Writer of log lines that never fails: a line that cannot be written is dropped and counted.
//!
//! The log goes to a pipe, a terminal or a file, any of which may be closed or full. A process that cannot log
//! continues, and counts the missing lines in a metric.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::terminal_text::{Keep, escape};

static DROPPED_LINES: AtomicU64 = AtomicU64::new(0);

/// Lines that could not be written since the process started.
pub fn dropped_lines() -> u64 {
    DROPPED_LINES.load(Ordering::Relaxed)
}

/// Writes one message to stderr.
pub fn write_line(message: &str) {
    write_counted(format!("{}\n", escape(message, Keep::Lines)).as_bytes());
}

/// Standard error that never returns an error. Each write is one log line, and stays one line whatever users' texts it
/// contains.
#[derive(Debug, Clone, Copy)]
pub enum Stderr {
    /// Lines of text: unsafe characters are escaped here.
    Text,
    /// JSON objects, whose strings have no newlines.
    Json,
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Stderr::Text => write_counted(one_line(line, is_terminal()).as_bytes()),
            Stderr::Json => write_counted(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether the log goes to a terminal, and has styles.
pub fn is_terminal() -> bool {
    static IS_TERMINAL: OnceLock<bool> = OnceLock::new();
    *IS_TERMINAL.get_or_init(|| io::stderr().is_terminal())
}

/// Returns a line of the log with the unsafe characters in it escaped, newlines among them.
fn one_line(line: &[u8], styled: bool) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let keep = if styled { Keep::Styles } else { Keep::Nothing };
    format!("{}\n", escape(text, keep))
}

fn write_counted(bytes: &[u8]) {
    if io::stderr().lock().write_all(bytes).is_err() {
        DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_text_in_a_log_line_makes_no_further_line() {
        let line = b"WARN refused: x\n2026 ERROR forged\x1b[31m\n";
        assert_eq!(
            one_line(line, false),
            "WARN refused: x\\n2026 ERROR forged\\u{1b}[31m\n"
        );
    }
}

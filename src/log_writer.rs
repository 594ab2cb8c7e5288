//! Writer of log lines that never fails: a line that cannot be written is dropped and counted.
//!
//! The log goes to a pipe, a terminal or a file, any of which may be closed or full. A process that cannot log goes on working,
//! and says in a metric how many lines are missing.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

static DROPPED_LINES: AtomicU64 = AtomicU64::new(0);

/// Lines that could not be written since the process started.
pub fn dropped_lines() -> u64 {
    DROPPED_LINES.load(Ordering::Relaxed)
}

/// Writes one line to stderr.
pub fn write_line(line: &str) {
    // The count tells of it; there is no other place to report it to.
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}

/// Standard error without errors. Each write is one line of the log.
#[derive(Debug, Clone, Copy)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().lock().write_all(line).is_err() {
            DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

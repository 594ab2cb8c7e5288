//! Trace of a run: a digest over all events, and the events as lines of text on request.

use std::fs::File;
use std::io::{BufWriter, Write};

use crate::process::Ns;

#[derive(Default)]
pub struct Trace {
    digest: u64,
    lines: Option<BufWriter<File>>,
}

impl Trace {
    pub fn new(lines: Option<File>) -> Self {
        Trace {
            digest: 0xCBF2_9CE4_8422_2325,
            lines: lines.map(BufWriter::new),
        }
    }

    pub fn digest(&mut self, who: u64, what: u64) {
        for word in [who, what] {
            self.digest = (self.digest ^ word).wrapping_mul(0x0100_0000_01B3);
            self.digest ^= self.digest >> 31;
        }
    }

    /// Returns the digest over all events so far.
    pub fn value(&self) -> u64 {
        self.digest
    }

    pub fn line(&mut self, now: Ns, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            // An incomplete trace is noticed by its reader.
            let _ = writeln!(
                lines,
                "{:>12}.{:06} {}",
                now / 1_000_000,
                now % 1_000_000,
                line()
            );
        }
    }
}

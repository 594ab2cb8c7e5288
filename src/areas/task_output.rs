//! Area of task output: the beginning and the end of what ended attempts have written, for readers after a change of
//! leader.
//!
//! The results and errors of `exec` contain their output. All other kinds have results of their own form, so the leader
//! records here what it has of their live output, along with the report.
//!
//! | bytes | of a command |
//! |---|---|
//! | 1 | version, 1 |
//! | 8, 8 | task, token (all numbers are little-endian) |
//! | twice: 4 and text, 8, 4 and text | stdout, then stderr: its beginning, the offset of its end, its end |
//!
//! The section holds the number of entries (u32), and each entry as its command.
//!
//! # Invariants
//!
//! - The area is bounded in bytes and in entries. The output of the attempt that was granted first goes first.
//! - The digest is kept as entries come and go, so that it costs nothing to take.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use triarch_table::{Event, Table, TaskId, Token};

/// Version of the area's commands and of its section.
pub const VERSION: u8 = 1;
/// Maximum bytes of one command. A longer one is damage.
const COMMAND_BYTES_MAX: usize = 512 << 10;
/// Maximum bytes of all entries together.
const BYTES_MAX: usize = 64 << 20;
/// Maximum number of entries.
const ENTRIES_MAX: usize = 16_384;
/// Bytes that an entry takes in addition to its text.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// What is kept of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptStream {
    /// Its beginning, or all of it.
    pub head: String,
    /// Offset of the tail in the stream, in bytes.
    pub tail_at: u64,
    /// Its end; empty if the head is all of it.
    pub tail: String,
}

/// Output of an attempt, and the command that records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOutput {
    /// The task.
    pub task: TaskId,
    /// The lease of the attempt.
    pub token: Token,
    /// Standard output.
    pub stdout: KeptStream,
    /// Standard error.
    pub stderr: KeptStream,
}

/// Reason why bytes are no command of this area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutputCodecError {
    /// A later version wrote the command.
    #[error(
        "version {0} of the commands for task output is not known to this version: upgrade this program"
    )]
    UnknownVersion(u8),
    /// The bytes are damaged.
    #[error("a command for task output is damaged")]
    Damaged,
}

impl KeptOutput {
    /// Appends the command in the area's format.
    pub fn append_to(&self, mut out: Vec<u8>) -> Vec<u8> {
        out.push(VERSION);
        out.extend(self.task.0.to_le_bytes());
        out.extend(self.token.0.to_le_bytes());
        let text = |text: &str, out: &mut Vec<u8>| {
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        };
        for stream in [&self.stdout, &self.stderr] {
            text(&stream.head, &mut out);
            out.extend(stream.tail_at.to_le_bytes());
            text(&stream.tail, &mut out);
        }
        out
    }

    /// Reads a command.
    ///
    /// # Errors
    ///
    /// Fails unless the bytes are exactly one command of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, OutputCodecError> {
        let mut rest = match bytes {
            [VERSION, rest @ ..] if bytes.len() <= COMMAND_BYTES_MAX => Fields(rest),
            [VERSION, ..] | [] => return Err(OutputCodecError::Damaged),
            [other, ..] => return Err(OutputCodecError::UnknownVersion(*other)),
        };
        let read = Self {
            task: TaskId(rest.u64()?),
            token: Token(rest.u64()?),
            stdout: rest.stream()?,
            stderr: rest.stream()?,
        };
        match rest.0 {
            [] => Ok(read),
            _ => Err(OutputCodecError::Damaged),
        }
    }
}

/// Fields that are left to read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], OutputCodecError> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(OutputCodecError::Damaged)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u64(&mut self) -> Result<u64, OutputCodecError> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, OutputCodecError> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        let (text, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(OutputCodecError::Damaged)?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|_| OutputCodecError::Damaged)?;
        Ok(text.to_owned())
    }

    fn stream(&mut self) -> Result<KeptStream, OutputCodecError> {
        Ok(KeptStream {
            head: self.text()?,
            tail_at: self.u64()?,
            tail: self.text()?,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    output: KeptOutput,
    bytes: usize,
    digest: u64,
}

impl Entry {
    fn of(output: KeptOutput) -> Self {
        let encoded = output.append_to(Vec::new());
        let checksum = u64::from(crc32c::crc32c(&encoded));
        let word = output.token.0.rotate_left(32) ^ checksum;
        Self {
            output,
            bytes: encoded.len() + ENTRY_OVERHEAD_BYTES,
            digest: word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29),
        }
    }
}

/// State of the area. A clone shares it until either changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskOutputs {
    entries: Arc<BTreeMap<Token, Arc<Entry>>>,
    bytes: usize,
    /// Sum of the digests of all entries.
    digest: u64,
}

impl TaskOutputs {
    /// Returns whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns what is kept of an attempt.
    pub fn get(&self, token: Token) -> Option<&KeptOutput> {
        self.entries.get(&token).map(|entry| &entry.output)
    }

    /// Applies a command. Returns whether it had an effect, now or before.
    pub fn apply(&mut self, output: KeptOutput, table: &Table) -> bool {
        if table.task(output.task).is_none() {
            return false;
        }
        let token = output.token;
        self.insert(output);
        while let Some((&first, entry)) = self.entries.first_key_value() {
            let forgotten = table.task(entry.output.task).is_none();
            let full = self.bytes > BYTES_MAX || self.entries.len() > ENTRIES_MAX;
            if !forgotten && !full {
                break;
            }
            self.remove(first);
        }
        self.entries.contains_key(&token)
    }

    /// Forgets everything when the whole table is replaced.
    pub fn forget_restored(&mut self, events: &[Event]) {
        if events.iter().any(|event| matches!(event, Event::Restored)) {
            *self = Self::default();
        }
    }

    fn insert(&mut self, output: KeptOutput) {
        let token = output.token;
        if self.entries.contains_key(&token) {
            return;
        }
        let entry = Entry::of(output);
        self.bytes += entry.bytes;
        self.digest = self.digest.wrapping_add(entry.digest);
        Arc::make_mut(&mut self.entries).insert(token, Arc::new(entry));
    }

    fn remove(&mut self, token: Token) {
        if let Some(entry) = Arc::make_mut(&mut self.entries).remove(&token) {
            self.bytes -= entry.bytes;
            self.digest = self.digest.wrapping_sub(entry.digest);
        }
    }

    /// Writes the section of the area.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let length = |length: usize| u32::try_from(length).map_err(io::Error::other);
        out.write_all(&length(self.entries.len())?.to_le_bytes())?;
        for entry in self.entries.values() {
            let encoded = entry.output.append_to(Vec::new());
            out.write_all(&length(encoded.len())?.to_le_bytes())?;
            out.write_all(&encoded)?;
        }
        Ok(())
    }

    /// Reads the section of the area.
    ///
    /// # Errors
    ///
    /// Fails unless it is exactly what [`TaskOutputs::write`] writes.
    pub fn read(from: &mut dyn Read) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "the task output is damaged");
        let mut number = [0; 4];
        from.read_exact(&mut number)?;
        let mut outputs = Self::default();
        let mut encoded = Vec::new();
        for _ in 0..u32::from_le_bytes(number) {
            from.read_exact(&mut number)?;
            let length = u32::from_le_bytes(number) as usize;
            if length > COMMAND_BYTES_MAX {
                return Err(bad());
            }
            encoded.resize(length, 0);
            from.read_exact(&mut encoded)?;
            let output = KeptOutput::decode(&encoded).map_err(|_| bad())?;
            let last = outputs.entries.last_key_value();
            if last.is_some_and(|(last, _)| *last >= output.token) {
                return Err(bad());
            }
            outputs.insert(output);
        }
        if from.read(&mut [0])? != 0 {
            return Err(bad());
        }
        Ok(outputs)
    }

    /// Returns a digest. Equal states have equal digests.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use triarch_table::{Command, JobId, Limits, Reply, Stamp};

    use super::*;
    use crate::test_commands::submit_task;

    fn submit(table: &mut Table, index: u64) -> (JobId, TaskId) {
        let stamp = Stamp { index, now_ms: 1 };
        let submit = submit_task("k");
        match table.apply(stamp, vec![submit], &mut Vec::new()).remove(0) {
            Reply::Submitted { job, tasks, .. } => (job, tasks[0]),
            other => panic!("{other:?}"),
        }
    }

    fn output(task: TaskId, token: u64, head: &str) -> KeptOutput {
        KeptOutput {
            task,
            token: Token(token),
            stdout: KeptStream {
                head: head.to_owned(),
                tail_at: 900,
                tail: "end €\n".to_owned(),
            },
            stderr: KeptStream::default(),
        }
    }

    #[test]
    fn what_is_recorded_first_stays_and_goes_when_its_task_is_forgotten() {
        let mut table = Table::new(Limits::default());
        let (job, task) = submit(&mut table, 1);
        let (_, other) = submit(&mut table, 2);
        let mut outputs = TaskOutputs::default();
        assert!(outputs.apply(output(task, 5, "first"), &table));
        assert!(
            outputs.apply(output(task, 5, "second"), &table),
            "it is there"
        );
        assert_eq!(outputs.get(Token(5)), Some(&output(task, 5, "first")));
        assert!(!outputs.apply(output(TaskId::at(9, 0), 6, "x"), &table));

        let apply = |table: &mut Table, index, command| {
            table.apply(Stamp { index, now_ms: 1 }, vec![command], &mut Vec::new())
        };
        apply(&mut table, 3, Command::CancelJob { job });
        apply(&mut table, 4, Command::ForgetJobs { jobs: vec![job] });
        assert!(outputs.apply(output(other, 7, "other"), &table));
        assert_eq!(outputs.get(Token(5)), None, "its task is forgotten");
        let mut fresh = TaskOutputs::default();
        fresh.apply(output(other, 7, "other"), &table);
        assert_eq!((&outputs, outputs.digest()), (&fresh, fresh.digest()));
        outputs.forget_restored(&[Event::Restored]);
        assert_eq!((outputs.is_empty(), outputs.digest()), (true, 0));
    }

    #[test]
    fn past_the_bound_the_output_of_the_oldest_lease_goes() {
        let mut table = Table::new(Limits::default());
        let (_, task) = submit(&mut table, 1);
        let mut outputs = TaskOutputs::default();
        let text = "x".repeat(128 << 10);
        for token in (1..=600).rev() {
            outputs.apply(output(task, token, &text), &table);
        }
        assert!(outputs.bytes <= BYTES_MAX);
        assert_eq!(outputs.get(Token(1)), None);
        assert!(outputs.get(Token(600)).is_some());
        for token in 1_000..30_000 {
            outputs.apply(output(task, token, ""), &table);
        }
        assert!(outputs.entries.len() <= ENTRIES_MAX);
    }

    #[test]
    fn commands_and_sections_read_back_and_damage_is_an_error() {
        let mut table = Table::new(Limits::default());
        let (_, task) = submit(&mut table, 1);
        let bytes = output(task, 5, "head").append_to(Vec::new());
        assert_eq!(KeptOutput::decode(&bytes), Ok(output(task, 5, "head")));
        for length in 0..bytes.len() {
            assert!(
                KeptOutput::decode(&bytes[..length]).is_err(),
                "cut at {length}"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(KeptOutput::decode(&longer), Err(OutputCodecError::Damaged));
        let later = [&[2], &bytes[1..]].concat();
        assert_eq!(
            KeptOutput::decode(&later),
            Err(OutputCodecError::UnknownVersion(2))
        );

        let mut outputs = TaskOutputs::default();
        for token in [9, 5, 7] {
            outputs.apply(output(task, token, "head"), &table);
        }
        let mut bytes = Vec::new();
        outputs.write(&mut bytes).unwrap();
        let read = TaskOutputs::read(&mut &bytes[..]).unwrap();
        assert_eq!((&read, read.digest()), (&outputs, outputs.digest()));
        for length in 0..bytes.len() {
            assert!(TaskOutputs::read(&mut &bytes[..length]).is_err());
        }
        bytes.push(0);
        assert!(TaskOutputs::read(&mut &bytes[..]).is_err());
    }

    /// These bytes are in the logs of clusters of level 2.
    #[test]
    fn a_command_of_version_1_stays_readable() {
        let kept = output(TaskId(5), 6, "a");
        let mut bytes = vec![1, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([1, 0, 0, 0, b'a', 132, 3, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0]);
        bytes.extend("end €\n".bytes());
        bytes.extend([0; 16]);
        assert_eq!(kept.append_to(Vec::new()), bytes);
        assert_eq!(KeptOutput::decode(&bytes), Ok(kept));
    }
}

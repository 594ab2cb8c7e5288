//! Whole state as a stream, for snapshots and backups, and its digest.
//!
//! | first bytes | level | rest |
//! |---|---|---|
//! | `TRITABLE`, 1 | 1 | the records of the table |
//! | `TRITABLE`, 2 | 2 and above | [sections](crate::sections), one per area |
//!
//! Programs of level 1 name the unknown version of such a stream, because it begins as theirs does.

use std::io::{self, Read, Write};

use triarch_raft::Level;
use triarch_table::snapshot::{self, MAGIC, SnapshotError};
use triarch_table::{Frozen, Table};

use crate::area::{Area, UnknownArea};
use crate::sections::{SectionError, SectionHead, SectionReader, SectionWriter};
use crate::task_output::{self, TaskOutputs};
use crate::worker_secrets::{self, WorkerSecrets};
use crate::worker_silence::{self, WorkerSilences};

/// Version of a stream in sections. The table's own version never becomes 2.
const SECTIONS: u8 = 2;
/// Format of a digest over several areas. The format of level 1 is the table's own.
const AREAS_DIGEST_FORMAT: u32 = 2;

/// Frozen view of the whole state.
#[derive(Debug)]
pub struct FrozenState {
    /// Level of the cluster at this state.
    pub level: Level,
    /// The table.
    pub table: Frozen,
    /// Hashes of the secrets of workers. Empty at level 1.
    pub worker_secrets: WorkerSecrets,
    /// Output of ended attempts. Empty at level 1.
    pub task_outputs: TaskOutputs,
    /// Silence of workers. Empty at level 1.
    pub worker_silences: WorkerSilences,
}

/// State that was read.
#[derive(Debug)]
pub struct LoadedState {
    /// The table.
    pub table: Table,
    /// Hashes of the secrets of workers.
    pub worker_secrets: WorkerSecrets,
    /// Output of ended attempts.
    pub task_outputs: TaskOutputs,
    /// Silence of workers.
    pub worker_silences: WorkerSilences,
}

/// Digest of the whole state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDigest {
    /// Way in which it was computed. Digests of different formats are not comparable.
    pub format: u32,
    /// Digest of everything.
    pub value: u64,
    /// Digest of each area, from level 2 on.
    pub areas: Vec<(Area, u64)>,
}

/// Reason why a stream is not a state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The stream cannot be read, or ends too early.
    #[error("cannot read the snapshot: {0}")]
    Io(#[from] io::Error),
    /// A later version of the program wrote the stream.
    #[error(
        "snapshot format {0} is not known to this version (newest known: {SECTIONS}): upgrade this program to the version \
         that wrote it"
    )]
    UnknownVersion(u8),
    /// A later version of the program wrote the section of an area.
    #[error(
        "version {version} of the area {} is not known to this version: upgrade this program to the version that wrote it",
        area.name()
    )]
    UnknownSectionVersion {
        /// The area.
        area: Area,
        /// Version of its section.
        version: u8,
    },
    /// A later version of the program added an area.
    #[error(transparent)]
    UnknownArea(#[from] UnknownArea),
    /// A section is damaged.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// An area is there twice, or not at all.
    #[error("the snapshot does not hold the area {} exactly once", .0.name())]
    NotOnce(Area),
    /// The records of the table are damaged.
    #[error(transparent)]
    Table(#[from] SnapshotError),
}

impl FrozenState {
    /// Returns the log index of the last entry in this view.
    pub fn last_index(&self) -> u64 {
        self.table.last_index()
    }

    /// Streams the view in the format of its level.
    pub fn write(self, out: &mut dyn Write) -> io::Result<()> {
        if self.level == Level::ONE {
            return self.table.write(out);
        }
        out.write_all(MAGIC)?;
        out.write_all(&[SECTIONS])?;
        let mut sections = SectionWriter::new(out);
        let head = SectionHead {
            area: Area::Table.number(),
            version: snapshot::VERSION,
        };
        sections.section(head, |out| self.table.write(out))?;
        if !self.worker_secrets.is_empty() {
            let head = SectionHead {
                area: Area::WorkerSecrets.number(),
                version: worker_secrets::VERSION,
            };
            sections.section(head, |out| self.worker_secrets.write(out))?;
        }
        if !self.task_outputs.is_empty() {
            let head = SectionHead {
                area: Area::TaskOutput.number(),
                version: task_output::VERSION,
            };
            sections.section(head, |out| self.task_outputs.write(out))?;
        }
        if !self.worker_silences.is_empty() {
            let head = SectionHead {
                area: Area::WorkerSilence.number(),
                version: worker_silence::VERSION,
            };
            sections.section(head, |out| self.worker_silences.write(out))?;
        }
        sections.finish()?;
        Ok(())
    }

    /// Computes the digest. Equal states of one level have equal digests.
    pub fn digest(&self) -> StateDigest {
        let table = self.table.digest();
        if self.level == Level::ONE {
            return StateDigest {
                format: snapshot::DIGEST_FORMAT,
                value: table,
                areas: Vec::new(),
            };
        }
        let mut areas = vec![(Area::Table, table)];
        if !self.worker_secrets.is_empty() {
            areas.push((Area::WorkerSecrets, self.worker_secrets.digest()));
        }
        if !self.task_outputs.is_empty() {
            areas.push((Area::TaskOutput, self.task_outputs.digest()));
        }
        if !self.worker_silences.is_empty() {
            areas.push((Area::WorkerSilence, self.worker_silences.digest()));
        }
        StateDigest {
            format: AREAS_DIGEST_FORMAT,
            value: combined(&areas),
            areas,
        }
    }
}

impl triarch_raft::Frozen for FrozenState {
    fn write(self, out: &mut dyn Write) -> io::Result<()> {
        FrozenState::write(self, out)
    }
}

/// Returns a digest over the digests of all areas. Each step maps values one to one, so a change of one area's digest
/// always changes the result.
fn combined(areas: &[(Area, u64)]) -> u64 {
    let words = areas
        .iter()
        .flat_map(|(area, digest)| [u64::from(area.number()), *digest]);
    words.fold(0xcbf2_9ce4_8422_2325, |sum: u64, word| {
        (sum ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

/// Reads the state that [`FrozenState::write`] wrote, of any level up to the highest.
///
/// # Errors
///
/// Fails unless the stream is a complete and sound state without unknown areas.
pub fn read(from: &mut dyn Read) -> Result<LoadedState, StateError> {
    let mut sections = match open(from)? {
        Opened::Table(mut stream) => {
            return Ok(LoadedState {
                table: Table::read(&mut stream)?,
                worker_secrets: WorkerSecrets::default(),
                task_outputs: TaskOutputs::default(),
                worker_silences: WorkerSilences::default(),
            });
        }
        Opened::Sections(sections) => sections,
    };
    let mut table = None;
    let mut worker_secrets = None;
    let mut task_outputs = None;
    let mut worker_silences = None;
    while let Some(area) = next_area(&mut sections)? {
        match area {
            Area::Table => {
                let read = Table::read(&mut sections)?;
                if table.replace(read).is_some() {
                    return Err(StateError::NotOnce(area));
                }
            }
            Area::WorkerSecrets => {
                let read = WorkerSecrets::read(&mut sections)?;
                if worker_secrets.replace(read).is_some() {
                    return Err(StateError::NotOnce(area));
                }
            }
            Area::TaskOutput => {
                let read = TaskOutputs::read(&mut sections)?;
                if task_outputs.replace(read).is_some() {
                    return Err(StateError::NotOnce(area));
                }
            }
            Area::WorkerSilence => {
                let read = WorkerSilences::read(&mut sections)?;
                if worker_silences.replace(read).is_some() {
                    return Err(StateError::NotOnce(area));
                }
            }
        }
    }
    Ok(LoadedState {
        table: table.ok_or(StateError::NotOnce(Area::Table))?,
        worker_secrets: worker_secrets.unwrap_or_default(),
        task_outputs: task_outputs.unwrap_or_default(),
        worker_silences: worker_silences.unwrap_or_default(),
    })
}

/// Returns the table's own bytes out of such a stream, for a restore part by part. The rest of the stream is verified.
///
/// # Errors
///
/// Fails if the stream begins with anything else. Later errors are errors of reading.
pub fn table_bytes<R: Read>(from: R) -> Result<TableBytes<R>, StateError> {
    let opened = open(from)?;
    Ok(TableBytes {
        opened,
        found: false,
    })
}

/// Bytes of the table within a state. See [`table_bytes`].
pub struct TableBytes<R: Read> {
    opened: Opened<R>,
    found: bool,
}

impl<R: Read> Read for TableBytes<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let sections = match &mut self.opened {
            Opened::Table(stream) => return stream.read(into),
            Opened::Sections(sections) => sections,
        };
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let count = sections.read(into)?;
            if count > 0 {
                return Ok(count);
            }
            match next_area(sections).map_err(io::Error::other)? {
                Some(Area::Table) if !self.found => self.found = true,
                Some(Area::Table) => {
                    return Err(io::Error::other(StateError::NotOnce(Area::Table)));
                }
                // Restored workers have all left, and leaders of another cluster have other leases.
                Some(Area::WorkerSecrets | Area::TaskOutput | Area::WorkerSilence) => {
                    io::copy(sections, &mut io::sink())?;
                }
                None if self.found => {
                    // The end was read once, and nothing follows it.
                    self.opened = Opened::Table(Stream::empty());
                    return Ok(0);
                }
                None => return Err(io::Error::other(StateError::NotOnce(Area::Table))),
            }
        }
    }
}

/// The first bytes of a stream again, then the rest of it.
struct Stream<R> {
    head: io::Cursor<Vec<u8>>,
    rest: Option<R>,
}

impl<R> Stream<R> {
    fn empty() -> Self {
        Stream {
            head: io::Cursor::default(),
            rest: None,
        }
    }
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match (self.head.read(into)?, &mut self.rest) {
            (0, Some(rest)) => rest.read(into),
            (count, _) => Ok(count),
        }
    }
}

enum Opened<R: Read> {
    Table(Stream<R>),
    Sections(SectionReader<R>),
}

fn open<R: Read>(mut from: R) -> Result<Opened<R>, StateError> {
    let mut head = vec![0; MAGIC.len() + 1];
    from.read_exact(&mut head)?;
    match head.strip_prefix(MAGIC) {
        Some([SECTIONS]) => Ok(Opened::Sections(SectionReader::new(from))),
        Some([snapshot::VERSION]) => Ok(Opened::Table(Stream {
            head: io::Cursor::new(head),
            rest: Some(from),
        })),
        Some([version, ..]) => Err(StateError::UnknownVersion(*version)),
        Some([]) | None => Err(SnapshotError::NotASnapshot.into()),
    }
}

/// Opens the next section, if this version understands it.
fn next_area<R: Read>(sections: &mut SectionReader<R>) -> Result<Option<Area>, StateError> {
    let Some(head) = sections.next_section()? else {
        return Ok(None);
    };
    let area = Area::from_number(head.area)?;
    let known = match area {
        Area::Table => snapshot::VERSION,
        Area::WorkerSecrets => worker_secrets::VERSION,
        Area::TaskOutput => task_output::VERSION,
        Area::WorkerSilence => worker_silence::VERSION,
    };
    match head.version == known {
        true => Ok(Some(area)),
        false => Err(StateError::UnknownSectionVersion {
            area,
            version: head.version,
        }),
    }
}

#[cfg(test)]
mod tests {
    use triarch_table::Token;

    use super::*;
    use crate::task_output::{KeptOutput, KeptStream};

    /// A table of level 1, as it was written before there were levels. It never changes.
    const TABLE_V1: &[u8] = include_bytes!("../../table/tests/golden/table.v1.snapshot");
    /// The same state at level 2. It never changes, because it must stay readable for ever.
    const STATE_V2: &[u8] = include_bytes!("../../tests/golden/state.v2.snapshot");

    fn state(level: Level) -> FrozenState {
        let read = read(&mut &TABLE_V1[..]).expect("it is whole");
        FrozenState {
            level,
            table: read.table.freeze(),
            worker_secrets: read.worker_secrets,
            task_outputs: read.task_outputs,
            worker_silences: read.worker_silences,
        }
    }

    fn written(state: FrozenState) -> Vec<u8> {
        let mut bytes = Vec::new();
        state.write(&mut bytes).expect("memory takes all");
        bytes
    }

    #[test]
    fn a_state_of_level_1_is_the_table_alone_as_before_there_were_levels() {
        assert!(written(state(Level::ONE)) == TABLE_V1);
        let digest = state(Level::ONE).digest();
        let table = Table::read(&mut &TABLE_V1[..]).expect("it is whole");
        assert_eq!((digest.format, digest.value), (1, table.digest()));
        assert_eq!(digest.areas, []);
    }

    #[test]
    fn a_state_of_level_2_stays_readable_and_is_written_as_ever() {
        assert!(written(state(Level::TWO)) == STATE_V2);
        let table = read(&mut &STATE_V2[..]).expect("it is whole").table;
        assert_eq!(table.digest(), state(Level::ONE).digest().value);
        let digest = state(Level::TWO).digest();
        assert_eq!(digest.format, 2);
        assert_eq!(digest.areas, [(Area::Table, table.digest())]);
        assert_eq!(digest.value, combined(&digest.areas));
        assert_eq!(combined(&[(Area::Table, 7)]), 0x672f_bd36_c262_253b);
        assert_ne!(combined(&[(Area::Table, 7)]), combined(&[(Area::Table, 8)]));
    }

    #[test]
    fn the_table_is_taken_out_of_a_state_of_either_level() {
        for stream in [TABLE_V1, STATE_V2] {
            let mut bytes = Vec::new();
            let mut table = table_bytes(stream).expect("a state");
            table.read_to_end(&mut bytes).expect("it is whole");
            assert!(bytes == TABLE_V1);
            assert_eq!(table.read(&mut [0; 8]).expect("at the end"), 0);
        }
        let cut = &STATE_V2[..STATE_V2.len() - 1];
        let mut table = table_bytes(cut).expect("it begins well");
        assert!(table.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn output_of_tasks_is_written_at_level_2_and_stays_behind_in_a_restore() {
        let table = Table::read(&mut &TABLE_V1[..]).expect("it is whole");
        let task = table.last_task().expect("it has tasks");
        let mut outputs = TaskOutputs::default();
        let kept = KeptOutput {
            task,
            token: Token(7),
            stdout: KeptStream {
                head: "hello\n".to_owned(),
                ..KeptStream::default()
            },
            stderr: KeptStream::default(),
        };
        assert!(outputs.apply(kept, &table));
        let with_output = || FrozenState {
            task_outputs: outputs.clone(),
            ..state(Level::TWO)
        };
        let digest = with_output().digest();
        assert_eq!(digest.areas[1], (Area::TaskOutput, outputs.digest()));
        assert_ne!(digest.value, state(Level::TWO).digest().value);
        let bytes = written(with_output());
        let read_back = read(&mut &bytes[..]).expect("it is whole");
        assert_eq!(read_back.task_outputs, outputs);
        let mut table = Vec::new();
        let mut from = table_bytes(&bytes[..]).expect("a state");
        from.read_to_end(&mut table).expect("it is whole");
        assert!(table == TABLE_V1);
    }

    #[test]
    fn damage_of_a_state_in_sections_is_never_taken_for_a_state() {
        // Every byte of the frame, and some of the table, which has tests of its own.
        let frame = 0..STATE_V2.len();
        for at in frame.filter(|at| *at < 64 || *at + 64 > STATE_V2.len() || at % 97 == 0) {
            for bit in 0..8 {
                let mut bytes = STATE_V2.to_vec();
                bytes[at] ^= 1 << bit;
                assert!(read(&mut &bytes[..]).is_err(), "bit {bit} of byte {at}");
            }
        }
        for length in 0..STATE_V2.len() {
            assert!(read(&mut &STATE_V2[..length]).is_err(), "cut at {length}");
        }
    }

    /// A state of one section with this head.
    fn of_section(head: SectionHead) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[SECTIONS]].concat();
        let mut sections = SectionWriter::new(&mut bytes);
        sections
            .section(head, |out| out.write_all(TABLE_V1))
            .expect("memory takes all");
        sections.finish().expect("memory takes all");
        bytes
    }

    #[test]
    fn what_a_later_version_wrote_is_refused_by_name() {
        let refusal = |bytes: &[u8]| {
            let error = read(&mut &*bytes).expect_err("it is of a later version");
            error.to_string()
        };
        let area = refusal(&of_section(SectionHead {
            area: 200,
            version: 1,
        }));
        assert!(
            area.contains("area 200 is not known to this version: upgrade"),
            "{area}"
        );
        let version = refusal(&of_section(SectionHead {
            area: 0,
            version: 2,
        }));
        assert!(version.contains("version 2 of the area table"), "{version}");
        let mut later = STATE_V2.to_vec();
        later[MAGIC.len()] = 3;
        assert!(refusal(&later).contains("snapshot format 3"));
        assert!(refusal(b"%PDF-1.7 and so on").contains("not a snapshot"));
        let none = [&MAGIC[..], &[SECTIONS]].concat();
        let none = SectionWriter::new(none).finish().expect("memory takes all");
        assert!(refusal(&none).contains("exactly once"));
    }
}

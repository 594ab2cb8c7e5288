//! Backup file format: a whole table under a header, with checksums that detect any damage.
//!
//! ```text
//! "TRIARCH" and a version byte
//! length u32, CRC-32C u32, the header as JSON
//! length u32, CRC-32C u32, that many bytes of the table      (any number of these blocks)
//! 0 u32,      CRC-32C u32, bytes of the table u64            (the end)
//! ```
//!
//! All numbers are little-endian. The checksum of a block covers its number, from 0 for the header, and its bytes. It
//! therefore also detects a block that is missing, doubled or misplaced. A file without its end is one that was cut
//! short. The bytes are the output of [`FrozenState::write`](crate::state::FrozenState::write), of the level that
//! the header names, and carry checksums of their own. Version 1 is of level 1, and holds the table alone; version 2 is of
//! any later level.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 7] = b"TRIARCH";
/// Version of a backup of level 1.
const VERSION_1: u8 = 1;
/// Version of a backup of a later level, and the newest that this code reads.
const VERSION: u8 = 2;
/// Maximum bytes of the table in one block.
const BLOCK_BYTES: usize = 256 << 10;
/// Maximum size of a header in bytes. A larger one is damage.
const HEADER_BYTES_MAX: u32 = 1 << 20;

/// Header of a backup: identifies the backup and the state it contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Unique name of this backup.
    pub backup: String,
    /// Cluster it was taken from.
    pub cluster_id: String,
    /// Last log index it contains.
    pub index: u64,
    /// The table's time at that index, Unix ms.
    pub table_ms: u64,
    /// Number of jobs in it.
    pub jobs: u64,
    /// Number of tasks in it.
    pub tasks: u64,
    /// Version of Triarch that wrote it.
    pub version: String,
    /// Level of the cluster that it was taken from. Level 1 is left out, as before there were levels.
    #[serde(default = "level_1", skip_serializing_if = "is_level_1")]
    pub level: u32,
}

fn level_1() -> u32 {
    1
}

fn is_level_1(level: &u32) -> bool {
    *level == level_1()
}

/// Reason for which a file is not a valid backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file begins with other bytes.
    #[error("this is not a backup of Triarch")]
    NotABackup,
    /// A newer program wrote the file.
    #[error(
        "backup format {0} is not known to this version (newest known: {VERSION}): use the version that wrote it"
    )]
    UnknownVersion(u8),
    /// The file ends too early.
    #[error("the backup is cut short in block {0}")]
    CutShort(u64),
    /// A checksum is wrong.
    #[error("the backup is damaged in block {block}: {problem}")]
    Damaged {
        /// Number of the block; 0 is the header.
        block: u64,
        /// Description of the damage.
        problem: String,
    },
}

/// Writes a backup. The bytes written to it are the table; [`Writer::finish`] completes it.
pub struct Writer<W: Write> {
    out: W,
    block: Vec<u8>,
    number: u64,
    table_bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Creates the backup and writes its header.
    pub fn begin(mut out: W, header: &Header) -> io::Result<Self> {
        let version = match is_level_1(&header.level) {
            true => VERSION_1,
            false => VERSION,
        };
        let header = serde_json::to_vec(header)?;
        out.write_all(MAGIC)?;
        out.write_all(&[version])?;
        put_block(&mut out, 0, &header)?;
        Ok(Self {
            out,
            block: Vec::with_capacity(BLOCK_BYTES),
            number: 1,
            table_bytes: 0,
        })
    }

    fn put(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            put_block(&mut self.out, self.number, &self.block)?;
            self.number += 1;
            self.table_bytes += self.block.len() as u64;
            self.block.clear();
        }
        Ok(())
    }

    /// Writes the end. The caller syncs the underlying file.
    pub fn finish(mut self) -> io::Result<W> {
        self.put()?;
        let end = self.table_bytes.to_le_bytes();
        self.out.write_all(&0_u32.to_le_bytes())?;
        self.out
            .write_all(&checksum(self.number, &end).to_le_bytes())?;
        self.out.write_all(&end)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.put()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn put_block(out: &mut impl Write, number: u64, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&checksum(number, bytes).to_le_bytes())?;
    out.write_all(bytes)
}

fn checksum(number: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), bytes)
}

/// Reads a backup block by block. Each block is verified before any of it is returned.
pub struct Reader<R: Read> {
    from: R,
    number: u64,
    table_bytes: u64,
    over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn begin(mut from: R) -> Result<(Header, Self), BackupError> {
        let mut magic = [0; MAGIC.len() + 1];
        from.read_exact(&mut magic)
            .map_err(|_| BackupError::NotABackup)?;
        let [magic @ .., version] = magic;
        if magic != *MAGIC {
            return Err(BackupError::NotABackup);
        }
        if !(VERSION_1..=VERSION).contains(&version) {
            return Err(BackupError::UnknownVersion(version));
        }
        let mut reader = Self {
            from,
            number: 0,
            table_bytes: 0,
            over: false,
        };
        let header = reader.block(HEADER_BYTES_MAX)?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|error| reader.damaged(format!("its header: {error}")))?;
        if is_level_1(&header.level) != (version == VERSION_1) {
            let level = header.level;
            return Err(reader.damaged(format!("level {level} is not one of version {version}")));
        }
        reader.number = 1;
        Ok((header, reader))
    }

    /// Returns the next bytes of the table; `None` at the end, which only a whole backup has.
    pub fn next_block(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        if self.over {
            return Ok(None);
        }
        let block = self.block(BLOCK_BYTES as u32)?;
        if self.over {
            return Ok(None);
        }
        self.number += 1;
        self.table_bytes += block.len() as u64;
        Ok(Some(block))
    }

    fn block(&mut self, bytes_max: u32) -> Result<Vec<u8>, BackupError> {
        let length = u32::from_le_bytes(self.take()?);
        let expected = u32::from_le_bytes(self.take()?);
        if length > bytes_max {
            return Err(self.damaged(format!("its length of {length} bytes is invalid")));
        }
        if length == 0 {
            let end: [u8; 8] = self.take()?;
            self.verify(expected, &end)?;
            let claimed = u64::from_le_bytes(end);
            if claimed != self.table_bytes {
                let found = self.table_bytes;
                return Err(self.damaged(format!(
                    "{found} bytes precede the end marker, not {claimed}"
                )));
            }
            if self.from.read(&mut [0])? > 0 {
                return Err(self.damaged("data follows the end marker".to_owned()));
            }
            self.over = true;
            return Ok(Vec::new());
        }
        let mut block = vec![0; length as usize];
        self.fill(&mut block)?;
        self.verify(expected, &block)?;
        Ok(block)
    }

    fn verify(&self, expected: u32, bytes: &[u8]) -> Result<(), BackupError> {
        let found = checksum(self.number, bytes);
        if found == expected {
            Ok(())
        } else {
            Err(self.damaged(format!("its checksum is {found:08x}, not {expected:08x}")))
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), BackupError> {
        self.from.read_exact(into).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                BackupError::CutShort(self.number)
            } else {
                BackupError::Io(error)
            }
        })
    }

    fn damaged(&self, problem: String) -> BackupError {
        BackupError::Damaged {
            block: self.number,
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            backup: "b".into(),
            cluster_id: "c".into(),
            index: 7,
            table_ms: 8,
            jobs: 1,
            tasks: 2,
            version: "0.1.0".into(),
            level: 1,
        }
    }

    fn written(table: &[u8]) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new(), &header()).expect("memory");
        writer.write_all(table).expect("memory");
        writer.finish().expect("memory")
    }

    fn read(bytes: &[u8]) -> Result<(Header, Vec<u8>), BackupError> {
        let (header, mut reader) = Reader::begin(bytes)?;
        let mut table = Vec::new();
        while let Some(block) = reader.next_block()? {
            table.extend(block);
        }
        assert!(reader.next_block()?.is_none());
        Ok((header, table))
    }

    #[test]
    fn a_written_backup_reads_back() {
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 5] {
            let table: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let (found, bytes) = read(&written(&table)).expect("it is whole");
            assert_eq!((found, bytes), (header(), table), "{length}");
        }
    }

    /// Backups of both levels, as they were first written. They never change, because they must stay readable for ever.
    const GOLDEN: [(u32, &[u8]); 2] = [
        (1, include_bytes!("../../tests/golden/backup.v1")),
        (2, include_bytes!("../../tests/golden/backup.v2")),
    ];

    #[test]
    fn a_backup_of_either_level_stays_readable_and_is_written_as_ever() {
        for (level, golden) in GOLDEN {
            let (found, contents) = read(golden).expect("it is whole");
            let header = Header { level, ..header() };
            assert_eq!(found, header);
            let mut writer = Writer::begin(Vec::new(), &header).expect("memory");
            writer.write_all(&contents).expect("memory");
            assert!(writer.finish().expect("memory") == golden, "level {level}");
            assert!(crate::state::read(&mut &contents[..]).is_ok());
        }
        let [(_, of_1), (_, of_2)] = GOLDEN;
        for (golden, version) in [(of_1, 2), (of_2, 1)] {
            let mut wrong = golden.to_vec();
            wrong[MAGIC.len()] = version;
            assert!(matches!(
                read(&wrong),
                Err(BackupError::Damaged { block: 0, .. })
            ));
        }
    }

    #[test]
    fn every_damage_is_detected() {
        let whole = written(b"some table");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "cut at {length}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(read(&longer).is_err());
    }

    #[test]
    fn a_missing_or_repeated_block_is_detected() {
        let table = vec![7; 3 * BLOCK_BYTES];
        let whole = written(&table);
        let begins = whole.len() - 16 - 3 * (BLOCK_BYTES + 8);
        let block = |at: usize| {
            let from = begins + at * (BLOCK_BYTES + 8);
            from..from + BLOCK_BYTES + 8
        };
        let without = [
            &whole[..block(1).start],
            &whole[block(2)],
            &whole[block(2).end..],
        ]
        .concat();
        assert!(matches!(
            read(&without),
            Err(BackupError::Damaged { block: 2, .. })
        ));
        let doubled = [&whole[..block(1).end], &whole[block(1).start..]].concat();
        assert!(matches!(
            read(&doubled),
            Err(BackupError::Damaged { block: 3, .. })
        ));
    }

    #[test]
    fn other_files_and_newer_versions_are_refused() {
        assert!(matches!(
            read(b"PK\x03\x04 and so on"),
            Err(BackupError::NotABackup)
        ));
        assert!(matches!(read(b""), Err(BackupError::NotABackup)));
        let mut newer = written(b"");
        newer[MAGIC.len()] = 9;
        assert!(matches!(read(&newer), Err(BackupError::UnknownVersion(9))));
    }
}

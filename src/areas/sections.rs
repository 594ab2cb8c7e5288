//! Sections: several byte streams in one, each with its area, version, length and checksum.
//!
//! ```text
//! area u8, version u8, CRC-32C u32 of number and these      (any number of sections, numbered from 0)
//!     length u32, that many bytes                           (any number of blocks)
//!     0 u32, length of the section u64, CRC-32C u32 of head, contents and length
//! 255 u8, number of sections u8, CRC-32C u32 of these       (the end)
//! ```
//!
//! All numbers are little-endian. A section is written and read as a stream, so its length stands at its end.

use std::io::{self, Read, Write};

/// Maximum bytes of one block. A larger one is damage.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Marks the end of the stream, where a section would have its area.
const END: u8 = u8::MAX;

/// Reason why a stream is not a sequence of sections.
#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    /// The stream cannot be read, or ends too early.
    #[error("cannot read section {number}: {error}")]
    Io {
        /// Number of the section, from 0.
        number: u8,
        /// The error.
        error: io::Error,
    },
    /// A checksum or a length is wrong.
    #[error("section {number} is damaged: {problem}")]
    Damaged {
        /// Number of the section, from 0.
        number: u8,
        /// Description of the damage.
        problem: String,
    },
}

/// Area and version of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionHead {
    /// Number of the area.
    pub area: u8,
    /// Version of the area's format.
    pub version: u8,
}

fn head_checksum(number: u8, head: SectionHead) -> u32 {
    crc32c::crc32c(&[number, head.area, head.version])
}

/// Writer of sections.
pub struct SectionWriter<W: Write> {
    out: W,
    number: u8,
}

impl<W: Write> SectionWriter<W> {
    /// Creates a writer without sections.
    pub fn new(out: W) -> Self {
        Self { out, number: 0 }
    }

    /// Writes one section, whose contents `write` writes.
    pub fn section(
        &mut self,
        head: SectionHead,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let checksum = head_checksum(self.number, head);
        self.out.write_all(&[head.area, head.version])?;
        self.out.write_all(&checksum.to_le_bytes())?;
        let mut blocks = BlockWriter {
            out: &mut self.out,
            checksum,
            length: 0,
        };
        write(&mut blocks)?;
        let BlockWriter {
            checksum, length, ..
        } = blocks;
        let checksum = crc32c::crc32c_append(checksum, &length.to_le_bytes());
        self.out.write_all(&0_u32.to_le_bytes())?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&checksum.to_le_bytes())?;
        self.number += 1;
        Ok(())
    }

    /// Writes the end, and returns the destination.
    pub fn finish(mut self) -> io::Result<W> {
        let end = [END, self.number];
        self.out.write_all(&end)?;
        self.out.write_all(&crc32c::crc32c(&end).to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }
}

struct BlockWriter<'a, W: Write> {
    out: &'a mut W,
    checksum: u32,
    length: u64,
}

impl<W: Write> Write for BlockWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let block = &bytes[..bytes.len().min(BLOCK_BYTES_MAX)];
        if block.is_empty() {
            return Ok(0);
        }
        self.out.write_all(&(block.len() as u32).to_le_bytes())?;
        self.out.write_all(block)?;
        self.checksum = crc32c::crc32c_append(self.checksum, block);
        self.length += block.len() as u64;
        Ok(block.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reader of sections. As a [`Read`] it returns the contents of the section that [`SectionReader::next_section`] opened, and ends
/// only after the section's checksum was found right.
pub struct SectionReader<R: Read> {
    from: R,
    /// Number of the section that is open, or that comes next.
    number: u8,
    open: bool,
    block_left: usize,
    checksum: u32,
    length: u64,
}

impl<R: Read> SectionReader<R> {
    /// Creates a reader before the first section.
    pub fn new(from: R) -> Self {
        Self {
            from,
            number: 0,
            open: false,
            block_left: 0,
            checksum: 0,
            length: 0,
        }
    }

    /// Opens the next section, once all of the one before was read. `None` at the end.
    pub fn next_section(&mut self) -> Result<Option<SectionHead>, SectionError> {
        if self.open {
            let number = self.number;
            match self.read(&mut [0]) {
                Ok(0) => {}
                Ok(_) => return Err(self.damaged("it is longer than what it contains")),
                Err(error) => return Err(SectionError::Io { number, error }),
            }
        }
        let [area, version, checksum @ ..] = self.take::<6>()?;
        let checksum = u32::from_le_bytes(checksum);
        if area == END {
            if checksum != crc32c::crc32c(&[area, version]) || version != self.number {
                return Err(self.damaged("the end is wrong"));
            }
            return Ok(None);
        }
        let head = SectionHead { area, version };
        if checksum != head_checksum(self.number, head) {
            return Err(self.damaged("its head is wrong"));
        }
        (self.open, self.checksum) = (true, checksum);
        (self.block_left, self.length) = (0, 0);
        Ok(Some(head))
    }

    fn damaged(&self, problem: &str) -> SectionError {
        SectionError::Damaged {
            number: self.number,
            problem: problem.to_owned(),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SectionError> {
        let mut bytes = [0; N];
        self.from
            .read_exact(&mut bytes)
            .map_err(|error| SectionError::Io {
                number: self.number,
                error,
            })?;
        Ok(bytes)
    }

    /// Opens the next block. Returns whether there is one; else the section was verified.
    fn next_block(&mut self) -> Result<bool, SectionError> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged("a block is too long"));
        }
        self.block_left = length;
        if length > 0 {
            return Ok(true);
        }
        let length: [u8; 8] = self.take()?;
        let expected = u32::from_le_bytes(self.take()?);
        if u64::from_le_bytes(length) != self.length {
            return Err(self.damaged("its length is wrong"));
        }
        if crc32c::crc32c_append(self.checksum, &length) != expected {
            return Err(self.damaged("its checksum is wrong"));
        }
        self.open = false;
        self.number = self.number.wrapping_add(1);
        Ok(false)
    }
}

impl<R: Read> Read for SectionReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() || !self.open {
            return Ok(0);
        }
        if self.block_left == 0 && !self.next_block().map_err(io::Error::other)? {
            return Ok(0);
        }
        let wanted = into.len().min(self.block_left);
        let count = self.from.read(&mut into[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.checksum = crc32c::crc32c_append(self.checksum, &into[..count]);
        self.block_left -= count;
        self.length += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sections = Vec<(u8, u8, Vec<u8>)>;

    fn written(sections: &Sections) -> Vec<u8> {
        let mut writer = SectionWriter::new(Vec::new());
        for (area, version, contents) in sections {
            let head = SectionHead {
                area: *area,
                version: *version,
            };
            writer
                .section(head, |out| out.write_all(contents))
                .expect("memory");
        }
        writer.finish().expect("memory")
    }

    fn read(bytes: &[u8]) -> Result<Sections, String> {
        let mut rest = bytes;
        let mut reader = SectionReader::new(&mut rest);
        let mut sections = Vec::new();
        while let Some(head) = reader.next_section().map_err(|error| error.to_string())? {
            let mut contents = Vec::new();
            reader
                .read_to_end(&mut contents)
                .map_err(|error| error.to_string())?;
            sections.push((head.area, head.version, contents));
        }
        match rest {
            [] => Ok(sections),
            _ => Err("something follows the end".to_owned()),
        }
    }

    fn some() -> Sections {
        vec![(0, 1, b"some table".to_vec()), (7, 2, Vec::new())]
    }

    #[test]
    fn sections_read_back_in_order() {
        for sections in [
            Vec::new(),
            some(),
            vec![(3, 9, vec![5; 2 * BLOCK_BYTES_MAX + 3])],
        ] {
            assert_eq!(read(&written(&sections)), Ok(sections));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_detected() {
        let whole = written(&some());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_section_that_is_left_before_its_end_is_an_error() {
        let bytes = written(&some());
        let mut reader = SectionReader::new(&bytes[..]);
        reader
            .next_section()
            .expect("it is whole")
            .expect("there is one");
        reader.read_exact(&mut [0; 4]).expect("there is more");
        assert!(matches!(
            reader.next_section(),
            Err(SectionError::Damaged { number: 0, .. })
        ));
    }
}

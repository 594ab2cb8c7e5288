//! Writes a frozen view as a stream.

use std::io::{self, BufWriter, Write};

use crate::snapshot::digest::Digest;
use crate::snapshot::format::{MAGIC, RECORD_BYTES_MAX, Record, VERSION, encoded};
use crate::snapshot::frozen::Frozen;

impl Frozen {
    /// Streams the view. The caller must flush and sync the destination.
    pub fn write(self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 18, out);
        out.write_all(MAGIC)?;
        out.write_all(&[VERSION])?;
        let mut digest = Digest::new();
        let mut put = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len())
                .ok()
                .filter(|&length| length <= RECORD_BYTES_MAX);
            let length =
                length.ok_or_else(|| io::Error::other("a record is too long for a snapshot"))?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(bytes)
        };
        self.records(&mut |_, bytes| {
            digest.add(bytes);
            put(bytes)
        })?;
        put(&encoded(
            &Record::End {
                digest: digest.value(),
            },
            Vec::new(),
        )?)?;
        out.flush()
    }
}

/// Returns these records as a snapshot under a matching digest. Only so do the records of a fuzzer get past the digest.
///
/// Records are lengths and bytes; a record that is too short for its length ends them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn sealed(mut records: &[u8]) -> Vec<u8> {
    let mut digest = Digest::new();
    let mut bytes = Vec::from(MAGIC);
    bytes.push(VERSION);
    while let Some((length, rest)) = records.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((record, rest)) = rest.split_at_checked(length) else {
            break;
        };
        digest.add(record);
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(record);
        records = rest;
    }
    let digest = digest.value();
    let end = encoded(&Record::End { digest }, Vec::new()).expect("memory takes everything");
    bytes.extend_from_slice(&(end.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&end);
    bytes
}

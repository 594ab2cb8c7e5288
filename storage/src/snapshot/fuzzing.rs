//! Fuzzing entry point for the reader of a snapshot file.

use std::io::{self, Write};

use super::file::SnapshotFile;
use super::format::{Footer, HEADER};

/// Reads `data` as a snapshot file, and again between a header and a footer whose fields come from its first 16 bytes.
/// The file is refused, or read to its end.
pub fn snapshot_file(data: &[u8]) {
    open(data);
    let Some((claims, body)) = data.split_first_chunk::<16>() else {
        return;
    };
    let number = |at: usize| {
        u32::from_le_bytes([claims[at], claims[at + 1], claims[at + 2], claims[at + 3]])
    };
    let meta_bytes = number(4);
    let meta = body.len().checked_sub(meta_bytes as usize);
    let footer = Footer {
        payload_bytes: u64::from(number(0)),
        meta_bytes,
        meta_crc: meta.map_or(number(8), |meta| crc32c::crc32c(&body[meta..])),
        blocks_crc: number(12),
    };
    open(&[HEADER.as_slice(), body, &footer.encode()].concat());
}

fn open(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("triarch-fuzz-{}", std::process::id()));
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes));
    written.expect("a temporary file");
    if let Ok(snapshot) = SnapshotFile::open(&path, 0) {
        let read = io::copy(&mut snapshot.reader(), &mut io::sink());
        assert_eq!(read.ok(), Some(snapshot.payload_bytes()));
        let first = snapshot
            .read_at(0, bytes.len())
            .expect("it was read before");
        assert_eq!(&first[..], &bytes[..first.len()]);
    }
    let _ = std::fs::remove_file(path);
}

//! Preallocation: blocks are allocated before they are written.
//!
//! sled's file grows as it is written. If another process fills the file system between a check and a write, that write
//! fails, and sled with it. So the file gets blocks beyond its end, enough for the next group, before sled sees any of
//! the group. The file's length stays the same, so its readers notice nothing. If no blocks are left, the group waits.
//! It is queued, nothing of it was acknowledged, and it can be written any time later.
//!
//! sled may shorten its file, which also frees the blocks beyond the new end. The shorter length shows this, and the
//! blocks are allocated again.

use std::fs::File;
use std::io;

use crate::durable;

/// Minimum allocation, in bytes.
const PREALLOCATION_BYTES_MIN: u64 = 4 << 20;

/// Preallocates blocks beyond the end of the log's file.
pub(super) struct Preallocator {
    file: File,
    /// The file's length when last read.
    length: u64,
    /// The file has blocks up to here.
    end: u64,
    /// Whether the file system can allocate beyond a file's end. If not, a check of its free space must do.
    can_allocate: bool,
}

impl Preallocator {
    pub(super) fn new(file: File) -> Self {
        Preallocator {
            file,
            length: 0,
            end: 0,
            can_allocate: true,
        }
    }

    /// Allocates blocks for `bytes`. Returns an error of kind [`io::ErrorKind::StorageFull`] when there are none.
    pub(super) fn ensure(&mut self, bytes: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length < self.length {
            self.end = length;
        }
        self.length = length;
        let wanted = length.saturating_add(bytes);
        if !self.can_allocate || wanted <= self.end {
            return Ok(());
        }
        let begin = self.end.max(length);
        let larger = bytes.max(PREALLOCATION_BYTES_MIN);
        let allocated = match durable::allocate_beyond(&self.file, begin, larger) {
            Err(error) if is_full(&error) && wanted - begin < larger => {
                durable::allocate_beyond(&self.file, begin, wanted - begin).map(|()| wanted)
            }
            outcome => outcome.map(|()| begin.saturating_add(larger)),
        };
        match allocated {
            Ok(end) => {
                self.end = end;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.can_allocate = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns whether blocks are really allocated.
    pub(super) fn can_allocate(&self) -> bool {
        self.can_allocate
    }

    /// Returns how many bytes can be written without more blocks, as of the last check.
    pub(super) fn preallocated_bytes(&self) -> u64 {
        self.end.saturating_sub(self.length)
    }
}

/// Returns whether there is no space, or none for this user.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn blocks_are_there_before_the_bytes_and_the_length_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("db");
        let mut file = File::create(&path).unwrap();
        let mut preallocator = Preallocator::new(file.try_clone().unwrap());
        preallocator.ensure(1_000).unwrap();
        if !preallocator.can_allocate() {
            eprintln!("skipped: this file system cannot allocate beyond a file's end");
            return;
        }
        let blocks = || path.metadata().unwrap().blocks() * 512;
        assert_eq!(path.metadata().unwrap().len(), 0);
        assert!(blocks() >= PREALLOCATION_BYTES_MIN);
        assert_eq!(preallocator.preallocated_bytes(), PREALLOCATION_BYTES_MIN);

        let before = blocks();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        preallocator.ensure(1_000).unwrap();
        assert_eq!(blocks(), before, "what was allocated is used first");
        assert_eq!(
            preallocator.preallocated_bytes(),
            PREALLOCATION_BYTES_MIN - (1 << 20)
        );

        preallocator.ensure(6 << 20).unwrap();
        assert!(blocks() >= 7 << 20);

        // Shortening a file also frees the blocks beyond its end.
        file.set_len(0).unwrap();
        preallocator.ensure(1_000).unwrap();
        assert!(blocks() >= PREALLOCATION_BYTES_MIN);
        assert_eq!(preallocator.preallocated_bytes(), PREALLOCATION_BYTES_MIN);
    }
}

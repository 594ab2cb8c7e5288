//! Entries of present workers: the part that areas about workers have in common.
//!
//! A section holds the number of entries (u32, little-endian), and per entry the worker (u64, little-endian) and the entry's
//! own bytes, in order of the workers.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use triarch_table::{Event, Table, WorkerId};

/// Entry with bytes of one length.
pub trait WorkerEntry<const BYTES: usize>: Copy {
    /// Name of the area, in errors.
    const AREA: &'static str;

    /// Returns its bytes.
    fn to_bytes(self) -> [u8; BYTES];

    /// Returns the entry of these bytes, or `None` if no entry has them.
    fn from_bytes(bytes: [u8; BYTES]) -> Option<Self>;
}

/// Entries by worker. A clone shares them until either changes.
///
/// An entry is there for present workers only: it goes when its worker goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerEntries<E, const BYTES: usize> {
    entries: Arc<BTreeMap<WorkerId, E>>,
}

impl<E, const BYTES: usize> Default for WorkerEntries<E, BYTES> {
    fn default() -> Self {
        Self {
            entries: Arc::default(),
        }
    }
}

impl<E: WorkerEntry<BYTES>, const BYTES: usize> WorkerEntries<E, BYTES> {
    /// Returns whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the entry of a worker.
    pub fn get(&self, worker: WorkerId) -> Option<E> {
        self.entries.get(&worker).copied()
    }

    /// Puts the entry of a present worker. Returns whether the worker is present.
    pub fn put(&mut self, worker: WorkerId, entry: E, table: &Table) -> bool {
        let found = table.worker(worker);
        let present = found.is_some_and(|worker| worker.gone_ms().is_none());
        if present {
            Arc::make_mut(&mut self.entries).insert(worker, entry);
        }
        present
    }

    /// Forgets workers that have gone.
    pub fn forget_gone(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::WorkerGone { worker, .. } if self.entries.contains_key(worker) => {
                    Arc::make_mut(&mut self.entries).remove(worker);
                }
                // Restored workers have all left.
                Event::Restored => self.entries = Arc::default(),
                _ => {}
            }
        }
    }

    /// Writes the section.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let count = u32::try_from(self.entries.len()).map_err(io::Error::other)?;
        out.write_all(&count.to_le_bytes())?;
        for (worker, entry) in &*self.entries {
            out.write_all(&worker.0.to_le_bytes())?;
            out.write_all(&entry.to_bytes())?;
        }
        Ok(())
    }

    /// Reads the section.
    ///
    /// # Errors
    ///
    /// Fails unless it is exactly what [`WorkerEntries::write`] writes.
    pub fn read(from: &mut dyn Read) -> io::Result<Self> {
        let bad = |why| {
            let text = format!("the {}: {why}", E::AREA);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let mut count = [0; 4];
        from.read_exact(&mut count)?;
        let mut entries = BTreeMap::new();
        for _ in 0..u32::from_le_bytes(count) {
            let (mut worker, mut bytes) = ([0; 8], [0; BYTES]);
            from.read_exact(&mut worker)?;
            from.read_exact(&mut bytes)?;
            let worker = WorkerId(u64::from_le_bytes(worker));
            let entry = E::from_bytes(bytes).ok_or_else(|| bad("an entry is damaged"))?;
            if entries
                .last_key_value()
                .is_some_and(|(last, _)| *last >= worker)
            {
                return Err(bad("the entries are out of order"));
            }
            entries.insert(worker, entry);
        }
        if from.read(&mut [0])? != 0 {
            return Err(bad("bytes follow the last entry"));
        }
        Ok(Self {
            entries: Arc::new(entries),
        })
    }

    /// Returns a digest. Equal states have equal digests.
    pub fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        for (worker, entry) in &*self.entries {
            hash.update(worker.0.to_le_bytes());
            hash.update(entry.to_bytes());
        }
        let first: [u8; 8] = hash.finalize()[..8].try_into().unwrap_or_default();
        u64::from_le_bytes(first)
    }
}

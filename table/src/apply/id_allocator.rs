//! Allocator of ids and fencing tokens within one log entry.

use crate::types::ids::Token;

/// Allocator of ids and fencing tokens. Its positions count over the whole entry.
#[derive(Debug)]
pub(crate) struct IdAllocator {
    /// The index of the entry with the offset of ids; see [`Table::id_index`].
    pub(super) index: u64,
    pub(super) jobs: u64,
    pub(super) tasks: u64,
    pub(super) workers: u64,
    pub(super) leases: u64,
}

impl IdAllocator {
    pub(super) fn at(index: u64) -> Self {
        Self {
            index,
            jobs: 0,
            tasks: 0,
            workers: 0,
            leases: 0,
        }
    }

    /// Restarts at this index, because the table was replaced within this entry.
    pub(super) fn restart_at(&mut self, index: u64) {
        *self = Self::at(index);
    }

    /// Returns the token for the next lease; `None` if the entry has granted as many as one entry may.
    pub(super) fn next_token(&mut self) -> Option<Token> {
        let index = match mutated!(TokenCounterReset) {
            true => self.index % 64,
            false => self.index,
        };
        let token = Token::at(index, self.leases)?;
        self.leases += 1;
        Some(token)
    }
}

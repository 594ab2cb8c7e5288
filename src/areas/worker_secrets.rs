//! Area of worker secrets: who may act in the name of a worker.
//!
//! Worker ids and tokens are shown to every reader. Registration therefore returns a secret, which nothing shows again. A
//! worker that has sent it once is *held* to it: its own calls without the secret are refused from then on. Workers that
//! never send it go on without, as before there were secrets.
//!
//! | bytes | of a command |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | 1 issue, 2 hold |
//! | 8 | worker (little-endian) |
//! | 32 | SHA-256 of the secret |
//!
//! The section holds the number of entries (u32), and per entry the worker (u64), 1 if it is held (u8), and the hash.
//!
//! # Invariants
//!
//! - Only hashes are in commands, state, snapshots and backups.
//! - A hash is there for present workers only: it goes when its worker goes.
//! - The secret of a held worker never changes.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use triarch_table::{Event, Table, WorkerId};

use crate::worker_entries::{WorkerEntries, WorkerEntry};

/// Version of the area's commands and of its section.
pub const VERSION: u8 = 1;
const ISSUE: u8 = 1;
const HOLD: u8 = 2;
const HASH_BYTES: usize = 32;
const COMMAND_BYTES: usize = 10 + HASH_BYTES;
const ENTRY_BYTES: usize = 1 + HASH_BYTES;

/// SHA-256 of a worker's secret.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; HASH_BYTES]);

impl SecretHash {
    /// Hashes a secret.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }
}

/// Compares in a time that does not depend on the contents.
impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |sum, (left, right)| {
            std::hint::black_box(sum | (left ^ right))
        });
        difference == 0
    }
}

impl Eq for SecretHash {}

impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// Command of this area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretCommand {
    /// A secret was made for a worker. Nothing changes for a worker that is held already.
    Issue {
        /// The worker.
        worker: WorkerId,
        /// Hash of its secret.
        hash: SecretHash,
    },
    /// The worker has sent its secret: it is held to it from now on.
    Hold {
        /// The worker.
        worker: WorkerId,
        /// Hash of its secret.
        hash: SecretHash,
    },
}

/// Reason why bytes are no command of this area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretCodecError {
    /// A later version wrote the command.
    #[error(
        "version {0} of the commands for worker secrets is not known to this version: upgrade this program"
    )]
    UnknownVersion(u8),
    /// The bytes are damaged.
    #[error("a command for worker secrets is damaged")]
    Damaged,
}

impl SecretCommand {
    /// Appends the command in the area's format.
    pub fn append_to(self, mut out: Vec<u8>) -> Vec<u8> {
        let (kind, worker, hash) = match self {
            Self::Issue { worker, hash } => (ISSUE, worker, hash),
            Self::Hold { worker, hash } => (HOLD, worker, hash),
        };
        out.extend([VERSION, kind]);
        out.extend(worker.0.to_le_bytes());
        out.extend(hash.0);
        out
    }

    /// Reads a command.
    ///
    /// # Errors
    ///
    /// Fails unless the bytes are exactly one command of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, SecretCodecError> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(other) => return Err(SecretCodecError::UnknownVersion(*other)),
            None => return Err(SecretCodecError::Damaged),
        }
        let bytes: &[u8; COMMAND_BYTES] =
            bytes.try_into().map_err(|_| SecretCodecError::Damaged)?;
        let (head, hash) = bytes.split_at(COMMAND_BYTES - HASH_BYTES);
        let worker = head[2..].try_into().map(u64::from_le_bytes);
        let worker = WorkerId(worker.map_err(|_| SecretCodecError::Damaged)?);
        let hash = SecretHash(hash.try_into().map_err(|_| SecretCodecError::Damaged)?);
        match head[1] {
            ISSUE => Ok(Self::Issue { worker, hash }),
            HOLD => Ok(Self::Hold { worker, hash }),
            _ => Err(SecretCodecError::Damaged),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    hash: SecretHash,
    held: bool,
}

impl WorkerEntry<ENTRY_BYTES> for Entry {
    const AREA: &'static str = "worker secrets";

    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [u8::from(self.held); ENTRY_BYTES];
        bytes[1..].copy_from_slice(&self.hash.0);
        bytes
    }

    fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Option<Self> {
        let (held, hash) = bytes.split_first()?;
        Some(Self {
            hash: SecretHash(hash.try_into().ok()?),
            held: match held {
                0 => false,
                1 => true,
                _ => return None,
            },
        })
    }
}

/// Verdict on a call in the name of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretVerdict {
    /// The call may go on.
    Allowed,
    /// The call may go on once the worker is held to its secret.
    FirstUse(SecretHash),
    /// The worker is held to its secret, and the call has none.
    Missing,
    /// The worker is held to its secret, and the call has another.
    Wrong,
}

/// State of the area. A clone shares it until either changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerSecrets {
    entries: WorkerEntries<Entry, ENTRY_BYTES>,
}

impl WorkerSecrets {
    /// Returns whether no present worker has a secret.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Applies a command. Returns whether it had an effect, now or before.
    pub fn apply(&mut self, command: SecretCommand, table: &Table) -> bool {
        match command {
            SecretCommand::Issue { worker, hash } => {
                let held = self.entries.get(worker).is_some_and(|entry| entry.held);
                !held && self.entries.put(worker, Entry { hash, held: false }, table)
            }
            SecretCommand::Hold { worker, hash } => {
                let known = self.entries.get(worker).is_some_and(|e| e.hash == hash);
                known && self.entries.put(worker, Entry { hash, held: true }, table)
            }
        }
    }

    /// Forgets the secrets of workers that have gone.
    pub fn forget_gone(&mut self, events: &[Event]) {
        self.entries.forget_gone(events);
    }

    /// Judges a call in the name of a worker.
    pub fn judge(&self, worker: WorkerId, secret: Option<&[u8]>) -> SecretVerdict {
        let Some(entry) = self.entries.get(worker) else {
            return SecretVerdict::Allowed;
        };
        match secret.map(SecretHash::of) {
            None if entry.held => SecretVerdict::Missing,
            Some(hash) if entry.held && hash != entry.hash => SecretVerdict::Wrong,
            Some(hash) if !entry.held && hash == entry.hash => SecretVerdict::FirstUse(hash),
            // A repeated registration may have replaced the secret that its worker got.
            Some(_) | None => SecretVerdict::Allowed,
        }
    }

    /// Writes the section of the area.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.entries.write(out)
    }

    /// Reads the section of the area.
    ///
    /// # Errors
    ///
    /// Fails unless it is exactly what [`WorkerSecrets::write`] writes.
    pub fn read(from: &mut dyn Read) -> io::Result<Self> {
        let entries = WorkerEntries::read(from)?;
        Ok(Self { entries })
    }

    /// Returns a digest. Equal states have equal digests.
    pub fn digest(&self) -> u64 {
        self.entries.digest()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use triarch_table::command::RegisterWorker;
    use triarch_table::{Command, Limits, Reply, Stamp};

    use super::*;

    fn register(table: &mut Table, index: u64, name: &str) -> WorkerId {
        let register = Command::RegisterWorker(RegisterWorker {
            request_id: None,
            name: name.to_owned(),
            queues: vec!["q".to_owned()],
            kinds: vec!["k".to_owned()],
            slots: 1,
            labels: BTreeMap::new(),
            resources: BTreeMap::new(),
        });
        let stamp = Stamp { index, now_ms: 1 };
        match table
            .apply(stamp, vec![register], &mut Vec::new())
            .remove(0)
        {
            Reply::Registered { worker } => worker,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_worker_is_held_from_its_first_use_of_the_secret_until_it_goes() {
        let mut table = Table::new(Limits::default());
        let worker = register(&mut table, 1, "w");
        let other = register(&mut table, 2, "other");
        let mut secrets = WorkerSecrets::default();
        let hash = SecretHash::of(b"secret");
        assert_eq!(secrets.judge(worker, Some(b"any")), SecretVerdict::Allowed);
        assert!(secrets.apply(SecretCommand::Issue { worker, hash }, &table));
        assert_eq!(
            secrets.judge(worker, None),
            SecretVerdict::Allowed,
            "as before"
        );
        assert_eq!(
            secrets.judge(worker, Some(b"wrong")),
            SecretVerdict::Allowed,
            "it is not held yet"
        );
        let first = secrets.judge(worker, Some(b"secret"));
        assert_eq!(first, SecretVerdict::FirstUse(hash));
        let wrong = SecretHash::of(b"wrong");
        assert!(!secrets.apply(
            SecretCommand::Hold {
                worker,
                hash: wrong
            },
            &table
        ));
        assert!(secrets.apply(SecretCommand::Hold { worker, hash }, &table));
        assert_eq!(secrets.judge(worker, None), SecretVerdict::Missing);
        assert_eq!(secrets.judge(worker, Some(b"")), SecretVerdict::Wrong);
        assert_eq!(
            secrets.judge(worker, Some(b"secret")),
            SecretVerdict::Allowed
        );
        assert_eq!(secrets.judge(other, None), SecretVerdict::Allowed);
        assert!(!secrets.apply(
            SecretCommand::Issue {
                worker,
                hash: wrong
            },
            &table
        ));
        assert_eq!(
            secrets.judge(worker, Some(b"secret")),
            SecretVerdict::Allowed
        );

        let mut events = Vec::new();
        let stamp = Stamp {
            index: 3,
            now_ms: 1,
        };
        table.apply(stamp, vec![Command::LeaveWorker { worker }], &mut events);
        secrets.forget_gone(&events);
        assert!(secrets.is_empty());
        assert!(!secrets.apply(SecretCommand::Issue { worker, hash }, &table));
    }

    #[test]
    fn commands_and_sections_read_back_and_damage_is_an_error() {
        let (worker, hash) = (WorkerId::at(7, 3), SecretHash::of(b"secret"));
        for command in [
            SecretCommand::Issue { worker, hash },
            SecretCommand::Hold { worker, hash },
        ] {
            let bytes = command.append_to(Vec::new());
            assert_eq!(bytes.len(), COMMAND_BYTES);
            assert_eq!(SecretCommand::decode(&bytes), Ok(command));
            for length in 0..bytes.len() {
                assert!(SecretCommand::decode(&bytes[..length]).is_err());
            }
            for (at, wrong) in [(0, 2), (1, 0), (1, 3)] {
                let mut bytes = bytes.clone();
                bytes[at] = wrong;
                assert!(SecretCommand::decode(&bytes).is_err());
            }
        }
        let mut table = Table::new(Limits::default());
        let mut secrets = WorkerSecrets::default();
        let empty = secrets.digest();
        for index in 1..=3 {
            let worker = register(&mut table, index, &format!("w{index}"));
            secrets.apply(SecretCommand::Issue { worker, hash }, &table);
        }
        secrets.apply(
            SecretCommand::Hold {
                worker: WorkerId::at(2, 0),
                hash,
            },
            &table,
        );
        let mut bytes = Vec::new();
        secrets.write(&mut bytes).unwrap();
        let read = WorkerSecrets::read(&mut &bytes[..]).unwrap();
        assert_eq!(read, secrets);
        assert_eq!(read.digest(), secrets.digest());
        assert_ne!(secrets.digest(), empty);
        for length in 0..bytes.len() {
            assert!(WorkerSecrets::read(&mut &bytes[..length]).is_err());
        }
        bytes.push(0);
        assert!(WorkerSecrets::read(&mut &bytes[..]).is_err());
    }

    /// These bytes are in the logs of clusters of level 2.
    #[test]
    fn a_command_of_version_1_stays_readable() {
        let hash = SecretHash::of(b"secret");
        let bytes = SecretCommand::Issue {
            worker: WorkerId(5),
            hash,
        }
        .append_to(vec![2, 1]);
        assert_eq!(bytes[..12], [2, 1, 1, 1, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[12..16], [0x2b, 0xb8, 0x0d, 0x53]);
    }

    #[test]
    fn nothing_prints_a_hash() {
        let text = format!("{:?}", SecretHash::of(b"secret"));
        assert_eq!(text, "SecretHash(…)");
    }
}

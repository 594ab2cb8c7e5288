//! Area of worker silence: for how long leaders have not heard from a worker, over changes of the leader.
//!
//! Contacts of workers are in the memory of one leader and never in the log, and a new leader gives every worker one full
//! lease time. So a dead worker would keep its name for as long as leaders change more often than that. A leader that is
//! asked for the name of a silent worker, by a registration that it must refuse, therefore records the silence here, and
//! its successors count on from there: the name is free after one lease time of all leaders together.
//!
//! | bytes | of a command |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | 1 record, 2 contact |
//! | 16 for each worker | its id (u64, little-endian), the number of its contacts (u32), its silence in ms (u32), which is 0 in a contact |
//!
//! The section holds the number of entries (u32), and per entry the same 16 bytes.
//!
//! # Invariants
//!
//! - An entry is there for present workers only: it goes when its worker goes.
//! - A silence that was measured before a contact is never recorded after it: it carries the number of contacts of its time.
//! - A leader answers no call of a worker before the silence that is recorded, or on its way into the log, is ended by a
//!   contact. The recorded silence is therefore never longer than the time since the worker's last answered call.

use std::io::{self, Read, Write};

use triarch_table::{Event, Table, WorkerId};

use crate::worker_entries::{WorkerEntries, WorkerEntry};

/// Version of the area's commands and of its section.
pub const VERSION: u8 = 1;
const RECORD: u8 = 1;
const CONTACT: u8 = 2;
const WORKER_BYTES: usize = 8;
const SILENCE_BYTES: usize = 8;
const ENTRY_BYTES: usize = WORKER_BYTES + SILENCE_BYTES;

/// Recorded silence of one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Silence {
    /// Number of recorded silences that a contact has ended.
    pub contacts: u32,
    /// Time for which leaders have not heard from the worker, in ms.
    pub silent_ms: u32,
}

/// Command of this area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SilenceCommand {
    /// These workers have been silent for this long. Nothing changes for a worker with other contacts by then.
    Record(Vec<(WorkerId, Silence)>),
    /// A worker with a recorded silence was heard from.
    Contact {
        /// The worker.
        worker: WorkerId,
        /// Its contacts before this one.
        contacts: u32,
    },
}

/// Reason why bytes are no command of this area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SilenceCodecError {
    /// A later version wrote the command.
    #[error(
        "version {0} of the commands for worker silence is not known to this version: upgrade this program"
    )]
    UnknownVersion(u8),
    /// The bytes are damaged.
    #[error("a command for worker silence is damaged")]
    Damaged,
}

impl SilenceCommand {
    /// Appends the command in the area's format.
    pub fn append_to(&self, mut out: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Record(silences) => {
                out.extend([VERSION, RECORD]);
                for (worker, silence) in silences {
                    out.extend(entry_bytes(*worker, *silence));
                }
            }
            Self::Contact { worker, contacts } => {
                out.extend([VERSION, CONTACT]);
                let silence = Silence {
                    contacts: *contacts,
                    silent_ms: 0,
                };
                out.extend(entry_bytes(*worker, silence));
            }
        }
        out
    }

    /// Reads a command.
    ///
    /// # Errors
    ///
    /// Fails unless the bytes are exactly one command of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, SilenceCodecError> {
        let (kind, bytes) = match bytes {
            [VERSION, kind, entries @ ..] => (*kind, entries),
            [VERSION] | [] => return Err(SilenceCodecError::Damaged),
            [other, ..] => return Err(SilenceCodecError::UnknownVersion(*other)),
        };
        let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        let count = entries.len();
        let mut entries = entries.iter().filter_map(read_entry);
        match (kind, count, rest) {
            (RECORD, 1.., []) => Ok(Self::Record(entries.collect())),
            (CONTACT, 1, []) => match entries.next() {
                Some((worker, silence)) if silence.silent_ms == 0 => Ok(Self::Contact {
                    worker,
                    contacts: silence.contacts,
                }),
                Some(_) | None => Err(SilenceCodecError::Damaged),
            },
            _ => Err(SilenceCodecError::Damaged),
        }
    }
}

impl WorkerEntry<SILENCE_BYTES> for Silence {
    const AREA: &'static str = "worker silence";

    fn to_bytes(self) -> [u8; SILENCE_BYTES] {
        (u64::from(self.contacts) | u64::from(self.silent_ms) << 32).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; SILENCE_BYTES]) -> Option<Self> {
        let both = u64::from_le_bytes(bytes);
        Some(Self {
            contacts: both as u32,
            silent_ms: (both >> 32) as u32,
        })
    }
}

fn entry_bytes(worker: WorkerId, silence: Silence) -> impl Iterator<Item = u8> {
    let worker = worker.0.to_le_bytes().into_iter();
    worker.chain(silence.to_bytes())
}

fn read_entry(bytes: &[u8; ENTRY_BYTES]) -> Option<(WorkerId, Silence)> {
    let (worker, rest) = bytes.split_first_chunk::<WORKER_BYTES>()?;
    let silence = Silence::from_bytes(*rest.first_chunk()?)?;
    Some((WorkerId(u64::from_le_bytes(*worker)), silence))
}

/// State of the area. A clone shares it until either changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerSilences {
    entries: WorkerEntries<Silence, SILENCE_BYTES>,
}

impl WorkerSilences {
    /// Returns whether no present worker was ever seen silent.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns what is recorded of a worker.
    pub fn of(&self, worker: WorkerId) -> Silence {
        self.entries.get(worker).unwrap_or_default()
    }

    /// Applies a command. Returns whether it changed anything.
    pub fn apply(&mut self, command: SilenceCommand, table: &Table) -> bool {
        match command {
            SilenceCommand::Record(silences) => {
                let mut changed = false;
                for (worker, silence) in silences {
                    let recorded = self.of(worker);
                    changed |= silence.contacts == recorded.contacts
                        && silence.silent_ms > recorded.silent_ms
                        && self.entries.put(worker, silence, table);
                }
                changed
            }
            SilenceCommand::Contact { worker, contacts } => {
                let silence = Silence {
                    contacts: contacts.wrapping_add(1),
                    silent_ms: 0,
                };
                self.of(worker).contacts == contacts && self.entries.put(worker, silence, table)
            }
        }
    }

    /// Forgets workers that have gone.
    pub fn forget_gone(&mut self, events: &[Event]) {
        self.entries.forget_gone(events);
    }

    /// Writes the section of the area.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.entries.write(out)
    }

    /// Reads the section of the area.
    ///
    /// # Errors
    ///
    /// Fails unless it is exactly what [`WorkerSilences::write`] writes.
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

    fn silent(contacts: u32, silent_ms: u32) -> Silence {
        Silence {
            contacts,
            silent_ms,
        }
    }

    /// A table with this many workers.
    fn table(workers: u64) -> (Table, Vec<WorkerId>) {
        let mut table = Table::new(Limits::default());
        let register = |index| {
            let register = Command::RegisterWorker(RegisterWorker {
                request_id: None,
                name: format!("w{index}"),
                queues: vec!["q".to_owned()],
                kinds: vec!["k".to_owned()],
                slots: 1,
                labels: BTreeMap::new(),
                resources: BTreeMap::new(),
            });
            let stamp = Stamp { index, now_ms: 1 };
            let mut replies = table.apply(stamp, vec![register], &mut Vec::new());
            match replies.remove(0) {
                Reply::Registered { worker } => worker,
                other => panic!("{other:?}"),
            }
        };
        let ids = (1..=workers).map(register).collect();
        (table, ids)
    }

    #[test]
    fn a_contact_ends_the_silence_and_what_was_measured_before_it_is_never_recorded_after_it() {
        let (mut table, workers) = table(1);
        let worker = workers[0];
        let mut silences = WorkerSilences::default();
        let record = |contacts, ms| SilenceCommand::Record(vec![(worker, silent(contacts, ms))]);
        let contact = |contacts| SilenceCommand::Contact { worker, contacts };
        assert!(silences.apply(record(0, 400), &table));
        assert!(silences.apply(record(0, 900), &table));
        assert!(!silences.apply(record(0, 500), &table), "it is less");
        assert_eq!(silences.of(worker), silent(0, 900));
        assert!(silences.apply(contact(0), &table));
        assert_eq!(silences.of(worker), silent(1, 0));
        assert!(!silences.apply(record(0, 1_000), &table), "it was before");
        assert!(!silences.apply(contact(0), &table), "it was before");
        assert!(silences.apply(record(1, 300), &table));
        assert_eq!(silences.of(worker), silent(1, 300));

        let mut events = Vec::new();
        let stamp = Stamp {
            index: 9,
            now_ms: 1,
        };
        table.apply(stamp, vec![Command::LeaveWorker { worker }], &mut events);
        silences.forget_gone(&events);
        assert!(silences.is_empty());
        assert!(!silences.apply(record(0, 400), &table), "it has gone");
        assert!(!silences.apply(contact(0), &table), "it has gone");
        assert!(silences.is_empty());
    }

    #[test]
    fn commands_and_sections_read_back_and_damage_is_an_error() {
        let (table, workers) = table(3);
        let record = SilenceCommand::Record(vec![
            (workers[0], silent(0, 7)),
            (workers[2], silent(u32::MAX, u32::MAX)),
        ]);
        let contact = SilenceCommand::Contact {
            worker: workers[1],
            contacts: 0x0102_0304,
        };
        for command in [record, contact] {
            let bytes = command.append_to(Vec::new());
            assert_eq!(SilenceCommand::decode(&bytes), Ok(command));
            for length in (0..bytes.len()).filter(|length| *length != 2 + ENTRY_BYTES) {
                assert!(SilenceCommand::decode(&bytes[..length]).is_err());
            }
            for (at, wrong) in [(0, 2), (1, 0), (1, 3)] {
                let mut bytes = bytes.clone();
                bytes[at] = wrong;
                assert!(SilenceCommand::decode(&bytes).is_err());
            }
        }
        let mut silences = WorkerSilences::default();
        let empty = silences.digest();
        let all = workers.iter().zip(1..);
        let record = all.map(|(worker, ms)| (*worker, silent(0, ms))).collect();
        assert!(silences.apply(SilenceCommand::Record(record), &table));
        let mut bytes = Vec::new();
        silences.write(&mut bytes).expect("memory takes all");
        let read = WorkerSilences::read(&mut &bytes[..]).expect("it is whole");
        assert_eq!(read, silences);
        assert_eq!(read.digest(), silences.digest());
        assert_ne!(silences.digest(), empty);
        for length in 0..bytes.len() {
            assert!(WorkerSilences::read(&mut &bytes[..length]).is_err());
        }
        bytes.push(0);
        assert!(WorkerSilences::read(&mut &bytes[..]).is_err());
    }

    /// These bytes are in the logs of clusters of level 2.
    #[test]
    fn commands_of_version_1_stay_readable() {
        let worker = WorkerId(0x0807_0605_0403_0201);
        let entry = [1, 2, 3, 4, 5, 6, 7, 8, 2, 0, 0, 0];
        let record = SilenceCommand::Record(vec![(worker, silent(2, 0x0200_0001))]);
        let bytes = [&[1, 1][..], &entry, &[1, 0, 0, 2]].concat();
        assert_eq!(record.append_to(Vec::new()), bytes);
        let contact = SilenceCommand::Contact {
            worker,
            contacts: 2,
        };
        let bytes = [&[1, 2][..], &entry, &[0; 4]].concat();
        assert_eq!(contact.append_to(Vec::new()), bytes);
        assert_eq!(SilenceCommand::decode(&bytes), Ok(contact));
    }
}

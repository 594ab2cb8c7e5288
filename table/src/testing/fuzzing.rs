//! Fuzz targets for the decoders of this crate, with the properties that must hold. They are built for tests and with
//! the feature `fuzzing`. `fuzz/` has the targets and the corpus, on which the tests below run too.

use crate::command::Command;
use crate::command::codec::{decode_command, encode_command};
use crate::command::event::Event;
use crate::snapshot::sealed;
use crate::table::Table;
use crate::types::ids::Stamp;
use crate::types::limits::Limits;

/// Decodes bytes as a command: they are refused, or the command survives a round trip.
pub fn command(data: &[u8]) {
    let Ok(command) = decode_command(data) else {
        return;
    };
    let bytes = encode_command(&command);
    let again = decode_command(&bytes).expect("what was written can be read");
    assert_eq!(bytes, encode_command(&again));
}

/// Applies bytes as commands, each in an entry of its own and as long as its first two bytes say. For any bytes, the
/// table is sound afterwards, and a second table that applied the same is equal.
pub fn commands_applied(data: &[u8]) {
    let mut tables = [Table::new(small()), Table::new(small())];
    let mut rest = data;
    let mut index = 0;
    while let Some((length, more)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(more.len());
        let (one, more) = more.split_at(length);
        rest = more;
        index += 1;
        let Ok(command) = decode_command(one) else {
            continue;
        };
        // A backup is a snapshot in parts, and snapshots have a target of their own.
        if matches!(
            command,
            Command::RestorePart(_) | Command::RestorePartOfLevel2(_)
        ) {
            continue;
        }
        let stamp = Stamp {
            index,
            now_ms: 1_000 * index,
        };
        for table in &mut tables {
            let mut events: Vec<Event> = Vec::new();
            table.apply(stamp, vec![command.clone()], &mut events);
        }
    }
    let [one, other] = &tables;
    one.check_invariants();
    assert_eq!(one.digest(), other.digest());
}

fn small() -> Limits {
    Limits {
        tasks_max: 1_000,
        ..Limits::default()
    }
}

/// Reads bytes as a snapshot, as they are and under a matching digest. They are refused, or the table is sound and
/// survives a round trip.
pub fn snapshot(data: &[u8]) {
    read(data);
    read(&sealed(data));
}

fn read(bytes: &[u8]) {
    let Ok(table) = Table::read(&mut &*bytes) else {
        return;
    };
    table.check_invariants();
    let mut written = Vec::new();
    let wrote = table.freeze().write(&mut written);
    wrote.expect("memory takes everything");
    let again = Table::read(&mut &*written).expect("what was written can be read");
    assert_eq!(table.digest(), again.digest());
}

#[cfg(test)]
#[path = "../../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::passes;

    #[test]
    fn the_corpus_of_commands_passes() {
        passes("commands", super::command);
    }

    #[test]
    fn the_corpus_of_commands_applied_passes() {
        passes("commands_applied", super::commands_applied);
    }

    #[test]
    fn the_corpus_of_table_snapshots_passes() {
        passes("table_snapshots", super::snapshot);
    }
}

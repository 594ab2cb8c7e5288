//! Envelope of commands in the log.
//!
//! | first byte | level of the cluster | rest |
//! |---|---|---|
//! | 1 | 1 | a command of the table, without envelope |
//! | 2 | 2 and above | the number of an area, then a command in the area's own format |
//!
//! The table's own format begins with its version, 1. A command of level 1 is therefore the same bytes without the two
//! of the envelope, and a log that holds both kinds is read entry by entry.

use bytes::Bytes;
use triarch_raft::Level;
use triarch_table::Command;
use triarch_table::command::codec::{self, CodecError};

use crate::area::{Area, UnknownArea};
use crate::task_output::{KeptOutput, OutputCodecError};
use crate::worker_secrets::{SecretCodecError, SecretCommand};
use crate::worker_silence::{SilenceCodecError, SilenceCommand};

/// First byte of an envelope. It is not a version of the table's own format, and never becomes one.
const ENVELOPE: u8 = 2;

/// Command of one area.
#[derive(Debug, Clone, PartialEq)]
pub enum AreaCommand {
    /// Command of the table.
    Table(Box<Command>),
    /// Command for the secret of a worker.
    WorkerSecrets(SecretCommand),
    /// Command that records the output of an attempt.
    TaskOutput(Box<KeptOutput>),
    /// Command for the silence of workers.
    WorkerSilence(SilenceCommand),
}

/// Reason why bytes are not a command of any area.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The envelope ends before its area.
    #[error("the envelope of a command is cut short")]
    CutShort,
    /// A later version added the area.
    #[error(transparent)]
    UnknownArea(#[from] UnknownArea),
    /// The area does not understand its command.
    #[error(transparent)]
    Command(#[from] CodecError),
    /// The area of worker secrets does not understand its command.
    #[error(transparent)]
    SecretCommand(#[from] SecretCodecError),
    /// The area of task output does not understand its command.
    #[error(transparent)]
    OutputCommand(#[from] OutputCodecError),
    /// The area of worker silence does not understand its command.
    #[error(transparent)]
    SilenceCommand(#[from] SilenceCodecError),
}

/// Encodes a command for the log of a cluster of this level.
pub fn encode(command: &Command, level: Level) -> Bytes {
    let head = match level {
        Level::ONE => Vec::new(),
        _ => vec![ENVELOPE, Area::Table.number()],
    };
    Bytes::from(codec::append_command(command, head))
}

/// Encodes a command for the secret of a worker. Clusters of level 1 have no such area.
pub fn encode_secret(command: SecretCommand) -> Bytes {
    let head = vec![ENVELOPE, Area::WorkerSecrets.number()];
    Bytes::from(command.append_to(head))
}

/// Encodes the command that records the output of an attempt. Clusters of level 1 have no such area.
pub fn encode_output(output: &KeptOutput) -> Bytes {
    let head = vec![ENVELOPE, Area::TaskOutput.number()];
    Bytes::from(output.append_to(head))
}

/// Encodes a command for the silence of workers. Clusters of level 1 have no such area.
pub fn encode_silence(command: &SilenceCommand) -> Bytes {
    let head = vec![ENVELOPE, Area::WorkerSilence.number()];
    Bytes::from(command.append_to(head))
}

/// Decodes a command of the log, of any level up to the highest.
///
/// # Errors
///
/// Fails unless the bytes are exactly one command of a known area in a known version.
pub fn decode(bytes: &[u8]) -> Result<AreaCommand, EnvelopeError> {
    let (area, command) = match bytes {
        [ENVELOPE, area, command @ ..] => (Area::from_number(*area)?, command),
        [ENVELOPE] => return Err(EnvelopeError::CutShort),
        table => (Area::Table, table),
    };
    match area {
        Area::Table => Ok(AreaCommand::Table(Box::new(codec::decode_command(
            command,
        )?))),
        Area::WorkerSecrets => Ok(AreaCommand::WorkerSecrets(SecretCommand::decode(command)?)),
        Area::TaskOutput => Ok(AreaCommand::TaskOutput(Box::new(KeptOutput::decode(
            command,
        )?))),
        Area::WorkerSilence => Ok(AreaCommand::WorkerSilence(SilenceCommand::decode(command)?)),
    }
}

#[cfg(test)]
mod tests {
    use triarch_table::{TaskId, WorkerId};

    use super::*;

    fn commands() -> Vec<Command> {
        vec![
            Command::CancelTask {
                task: TaskId::at(6, 2),
            },
            Command::PauseWorker {
                worker: WorkerId::at(7, 3),
            },
        ]
    }

    #[test]
    fn level_1_has_no_envelope_and_level_2_puts_two_bytes_before_the_same_command() {
        for command in commands() {
            let plain = codec::encode_command(&command);
            assert_eq!(encode(&command, Level::ONE), plain);
            assert_eq!(encode(&command, Level::TWO), [&[2, 0], &plain[..]].concat());
        }
    }

    /// These bytes are in the logs of clusters of level 2.
    #[test]
    fn an_envelope_of_level_2_stays_readable() {
        let bytes = [2, 0, 1, 2, 0x82, 0x80, 0x80, 3];
        let cancel = Command::CancelTask {
            task: TaskId::at(6, 2),
        };
        assert_eq!(
            decode(&bytes),
            Ok(AreaCommand::Table(Box::new(cancel.clone())))
        );
        assert_eq!(encode(&cancel, Level::TWO), &bytes[..]);
    }

    #[test]
    fn commands_of_both_levels_read_back_whatever_the_level_is_by_then() {
        for command in commands() {
            for level in [Level::ONE, Level::TWO] {
                let read = decode(&encode(&command, level));
                assert_eq!(
                    read,
                    Ok(AreaCommand::Table(Box::new(command.clone()))),
                    "{level}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_area_is_refused_by_its_number_and_damage_is_an_error() {
        let refusal = decode(&[2, 200, 1, 2]).expect_err("it is of a later version");
        assert_eq!(refusal, EnvelopeError::UnknownArea(UnknownArea(200)));
        let words = "area 200 is not known to this version: upgrade";
        assert!(refusal.to_string().contains(words), "{refusal}");
        assert_eq!(decode(&[2]), Err(EnvelopeError::CutShort));
        for wrong in [&[][..], &[2, 0], &[2, 0, 9], &[9], &[2, 0, 1, 200]] {
            assert!(
                matches!(decode(wrong), Err(EnvelopeError::Command(_))),
                "{wrong:?}"
            );
        }
        let whole = encode(&commands()[0], Level::TWO);
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "cut at {length}");
        }
    }
}

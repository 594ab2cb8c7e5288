//! Log format of commands: one version byte, then postcard.
//!
//! Log entries outlive the process that wrote them and are read by every node, so this format is a compatibility
//! promise:
//!
//! - Variants and fields are only ever appended.
//! - A change of format is a new version in addition to the old ones.
//! - The golden file of each version stays decodable for ever.
//! - A command is not proposed before every node of the cluster can decode it.
//!
//! | version | content |
//! |---|---|
//! | 1 | a command whose tasks depend on the success of others of their job only |
//! | 3 | a command as in version 1, then the conditions of dependencies that are not the default, and the jobs that its job comes after |
//!
//! Version 2 is the first byte of an envelope of several areas, and never becomes one of commands.

use crate::command::Command;
use crate::command::later_parts::LaterParts;

/// The version of commands that level 1 knows.
pub const VERSION: u8 = 1;
/// The version of commands with parts that level 1 does not know.
pub const VERSION_WITH_LATER_PARTS: u8 = 3;

/// Reason why bytes are not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// There are no bytes.
    #[error("a command cannot be empty")]
    Empty,
    /// A newer version of the program wrote the bytes.
    #[error(
        "command format {0} is not known here (newest known: {VERSION_WITH_LATER_PARTS}): this node runs older code than the \
         cluster"
    )]
    UnknownVersion(u8),
    /// The bytes cannot be decoded.
    #[error("damaged command: {0}")]
    Malformed(#[from] postcard::Error),
    /// The parts after the command do not belong to it.
    #[error("damaged command: the conditions after it do not fit it")]
    LaterParts,
    /// Bytes follow the command.
    #[error("{0} bytes after the end of the command")]
    TrailingBytes(usize),
}

/// Encodes a command for the log.
pub fn encode_command(command: &Command) -> Vec<u8> {
    append_command(command, Vec::new())
}

/// Encodes a command like [`encode_command`], after the bytes of an envelope.
pub fn append_command(command: &Command, mut envelope: Vec<u8>) -> Vec<u8> {
    const WRITABLE: &str = "commands hold nothing that postcard cannot write";
    let later = LaterParts::of(command);
    if later.is_empty() {
        envelope.push(VERSION);
        return postcard::to_extend(command, envelope).expect(WRITABLE);
    }
    envelope.push(VERSION_WITH_LATER_PARTS);
    let bytes = postcard::to_extend(command, envelope).expect(WRITABLE);
    postcard::to_extend(&later, bytes).expect(WRITABLE)
}

/// Decodes a command of the log.
///
/// # Errors
///
/// Returns a [`CodecError`] unless the bytes are exactly one command in a known version.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    let (&version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    let (command, rest) = match version {
        VERSION => postcard::take_from_bytes(body)?,
        VERSION_WITH_LATER_PARTS => {
            let (mut command, rest): (Command, _) = postcard::take_from_bytes(body)?;
            let (later, rest): (LaterParts, _) = postcard::take_from_bytes(rest)?;
            if later.is_empty() || !later.put_into(&mut command) {
                return Err(CodecError::LaterParts);
            }
            (command, rest)
        }
        _ => return Err(CodecError::UnknownVersion(version)),
    };
    if rest.is_empty() {
        Ok(command)
    } else {
        Err(CodecError::TrailingBytes(rest.len()))
    }
}

//! Log format of commands: one version byte, then postcard.
//!
//! Log entries outlive the process that wrote them and are read by every node, so this format is a compatibility
//! promise:
//!
//! - Variants and fields are only ever appended.
//! - A change of format is a new version in addition to the old ones.
//! - The golden file of each version stays decodable for ever.
//! - A command is not proposed before every node of the cluster can decode it.

use crate::command::Command;

/// The version this code writes.
pub const VERSION: u8 = 1;

/// Reason why bytes are not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// There are no bytes.
    #[error("a command cannot be empty")]
    Empty,
    /// A newer version of the program wrote the bytes.
    #[error(
        "command format {0} is not known here (newest known: {VERSION}): this node runs older code than the cluster"
    )]
    UnknownVersion(u8),
    /// The bytes cannot be decoded.
    #[error("damaged command: {0}")]
    Malformed(#[from] postcard::Error),
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
    envelope.push(VERSION);
    postcard::to_extend(command, envelope)
        .expect("commands hold nothing that postcard cannot write")
}

/// Decodes a command of the log.
///
/// # Errors
///
/// Returns a [`CodecError`] unless the bytes are exactly one command in a known version.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    let (&version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if version != VERSION {
        return Err(CodecError::UnknownVersion(version));
    }
    let (command, rest) = postcard::take_from_bytes(body)?;
    if rest.is_empty() {
        Ok(command)
    } else {
        Err(CodecError::TrailingBytes(rest.len()))
    }
}

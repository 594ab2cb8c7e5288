//! Hooks for micro-benchmarks. Built with the feature `measuring`.

use bytes::Bytes;

use crate::protocol::entry_format;
use crate::types::Payload;

/// Encodes an entry of these commands, as it is written to the log.
pub fn encode_entry(now_ms: u64, commands: &[Bytes]) -> Bytes {
    let payload = Payload::Normal(entry_format::encode_commands(now_ms, commands));
    entry_format::encode_payload(&payload).expect("commands are written without fail")
}

/// Decodes the commands of an entry of the log. They share its memory.
pub fn decode_entry(entry: Bytes) -> Vec<Bytes> {
    match entry_format::decode_payload(entry).expect("what was written can be read") {
        Payload::Normal(batch) => {
            let read = entry_format::decode_commands(&batch).expect("what was written can be read");
            read.commands
        }
        Payload::Blank | Payload::Membership(_) => Vec::new(),
    }
}

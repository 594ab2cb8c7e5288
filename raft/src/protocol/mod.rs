//! Formats: log entries, messages between nodes, their level, and the identity check that every message passes.
//!
//! # Invariants
//!
//! - Bytes of older versions stay readable: fields and variants are only appended, and each has a version.

pub(crate) mod acknowledged;
pub(crate) mod entry_format;
pub(crate) mod history;
pub(crate) mod identity;
pub(crate) mod levels;
pub(crate) mod messages;
pub(crate) mod printable;
pub(crate) mod sessions;

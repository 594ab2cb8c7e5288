//! The program that one master runs, where masters of a cluster differ.

use std::path::PathBuf;

/// Program of one master, where it is not the one that all others run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// The binary. Default: the one under test.
    pub binary: Option<PathBuf>,
    /// Arguments in addition to those of all masters.
    pub more: Vec<String>,
}

impl Program {
    /// The binary under test, which behaves as one that understands at most this level of formats.
    pub fn of_level(level: u32) -> Self {
        Self {
            binary: None,
            more: vec!["--announce-level".to_owned(), level.to_string()],
        }
    }
}

//! Level of formats: the number under which formats of log entries, snapshots, messages and backups go together.
//!
//! Each node announces the highest level that it understands. The level of a cluster is part of its log. It only rises,
//! and only to a level that every member understands, so no node receives what it cannot decode. A node that announces
//! nothing is of [`Level::ONE`].

use std::fmt;

/// Level of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u32);

impl Level {
    /// Formats from before levels were announced.
    pub const ONE: Level = Level(1);
    /// Commands in envelopes, snapshots and backups in sections.
    pub const TWO: Level = Level(2);
    /// The highest level that this program understands.
    pub const HIGHEST: Level = Level::TWO;

    /// Returns the level of this number. `None` for 0, because levels begin at 1.
    pub const fn new(number: u32) -> Option<Level> {
        match number {
            0 => None,
            number => Some(Level(number)),
        }
    }

    /// Returns the number of the level.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Version of a node: its program, and the highest level that the program understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVersion {
    /// Version of the program. `None` for a node from before versions were announced.
    pub program: Option<String>,
    /// Highest level that it understands.
    pub level: Level,
}

impl NodeVersion {
    /// Version of a node that announces nothing.
    pub const UNANNOUNCED: NodeVersion = NodeVersion {
        program: None,
        level: Level::ONE,
    };
}

impl fmt::Display for NodeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Some(program) => write!(f, "version {program} (level {})", self.level),
            None => write!(f, "a version from before levels (level {})", self.level),
        }
    }
}

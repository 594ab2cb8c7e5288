//! Identifiers and fencing tokens. All of them are derived from their position in the log and never random. So every
//! replica derives the same ones, and no counter needs to be agreed on.

use serde::{Deserialize, Serialize};

/// The log index of an entry and the leader's time stamp: where and when its commands apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Log index of the entry; strictly increasing over the life of the cluster.
    pub index: u64,
    /// The leader's clock when it proposed the entry, in Unix milliseconds. The table itself makes it monotone:
    /// its time is the greatest stamp it has seen.
    pub now_ms: u64,
}

/// Bits of an id that count within one log entry; the rest is the log index.
const POSITION_BITS: u32 = 20;
/// Maximum number of ids that one log entry may make.
pub const IDS_PER_ENTRY_MAX: u64 = 1 << POSITION_BITS;
/// Bits of a token that count within one entry. They are fewer than those of an id, so that a token stays an exact JSON
/// number (below 2^53).
const TOKEN_POSITION_BITS: u32 = 12;
/// Maximum number of leases that one log entry may grant.
pub const GRANTS_PER_ENTRY_MAX: u64 = 1 << TOKEN_POSITION_BITS;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the id made at `position` within log entry `index`.
            pub fn at(index: u64, position: u64) -> Self {
                assert!(position < IDS_PER_ENTRY_MAX, "too many ids in one entry: {position}");
                Self(index << POSITION_BITS | position)
            }
            /// Returns the log index this id was made at.
            pub fn index(self) -> u64 {
                self.0 >> POSITION_BITS
            }
            /// Returns the position within that entry.
            pub fn position(self) -> u64 {
                self.0 & (IDS_PER_ENTRY_MAX - 1)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($letter, "{}-{}"), self.index(), self.position())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let parsed = text.strip_prefix($letter).and_then(|rest| rest.split_once('-')).and_then(|(index, position)| {
                    let index: u64 = decimal(index)?;
                    let position: u64 = decimal(position)?;
                    (index < 1 << (64 - POSITION_BITS) && position < IDS_PER_ENTRY_MAX).then(|| Self::at(index, position))
                });
                parsed.ok_or(IdError)
            }
        }
    };
}

/// Parses plain digits without sign or leading zero, so that every id has exactly one spelling.
fn decimal(text: &str) -> Option<u64> {
    let plain = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Error: the text is not an id of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind")]
pub struct IdError;

id!(
    /// A job; spelled `j<log index>-<position>`.
    JobId, "j"
);
id!(
    /// A task; spelled `t<log index>-<position>`. Ordered by submission.
    TaskId, "t"
);
id!(
    /// A worker's registration; spelled `w<log index>-<position>`.
    WorkerId, "w"
);

/// A fencing token: identifies one lease. Derived from the log index of the entry that granted it, so it is unique
/// and strictly increasing per task over all leaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub u64);

impl Token {
    /// Returns the token of the grant at `position` within log entry `index`; `None` past [`GRANTS_PER_ENTRY_MAX`].
    pub fn at(index: u64, position: u64) -> Option<Self> {
        (position < GRANTS_PER_ENTRY_MAX).then_some(Self(index << TOKEN_POSITION_BITS | position))
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

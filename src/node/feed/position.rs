//! Positions in the change feed: cursors that are the same on every node.

use std::fmt;
use std::str::FromStr;

/// Position in the history: the log index of an entry, and an offset into its events. It is the same on every node,
/// because every node derives the same events from the same entries.
///
/// Spelled `42.3` for the event at offset 3 of entry 42, and `42` for the end of that entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    index: u64,
    offset: u32,
}

/// Offset behind all events of an entry.
const ENTRY_END: u32 = u32::MAX;

impl Position {
    /// Creates the position of the event at this offset, from 0, of the entry at `index`.
    pub fn record(index: u64, offset: u32) -> Self {
        Self {
            index,
            offset: offset.min(ENTRY_END - 1),
        }
    }

    /// Creates the position behind all events of the entry at `index`.
    pub fn entry_end(index: u64) -> Self {
        Self {
            index,
            offset: ENTRY_END,
        }
    }

    /// Returns the entry's log index.
    pub fn index(self) -> u64 {
        self.index
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.offset == ENTRY_END {
            write!(f, "{}", self.index)
        } else {
            write!(f, "{}.{}", self.index, self.offset)
        }
    }
}

/// Error: the text is not a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        match text.split_once('.') {
            None => Ok(Self::entry_end(decimal(text)?)),
            Some((index, offset)) => {
                let offset = u32::try_from(decimal(offset)?).map_err(|_| InvalidPosition)?;
                if offset == ENTRY_END {
                    return Err(InvalidPosition);
                }
                Ok(Self::record(decimal(index)?, offset))
            }
        }
    }
}

/// Parses plain digits. A sign or leading zeros are refused, so that a number has one spelling.
fn decimal(text: &str) -> Result<u64, InvalidPosition> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return Err(InvalidPosition);
    }
    text.parse().map_err(|_| InvalidPosition)
}

#[cfg(test)]
mod tests {
    use super::Position;

    #[test]
    fn a_position_parses_from_its_own_spelling_only() {
        for (text, position) in [
            ("42.0", Position::record(42, 0)),
            ("42.10", Position::record(42, 10)),
            ("42", Position::entry_end(42)),
            ("0", Position::entry_end(0)),
        ] {
            assert_eq!(text.parse(), Ok(position));
            assert_eq!(position.to_string(), text);
        }
        for wrong in [
            "",
            ".",
            "4.",
            ".4",
            "4.-1",
            "+4",
            "04",
            "4.01",
            "4.4294967295",
            "4.4294967296",
            "18446744073709551616",
            "4.0.0",
            " 4",
        ] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_end_of_an_entry_sorts_behind_its_events_and_before_the_next_entry() {
        assert!(Position::record(42, 9) < Position::record(42, 10));
        assert!(Position::record(42, u32::MAX) < Position::entry_end(42));
        assert!(Position::entry_end(42) < Position::record(43, 0));
    }
}

//! Where in the history something stands.

use std::fmt;
use std::str::FromStr;

/// A place in the history: the log index of an entry, and how far into what that entry made happen. The same on every
/// node, because every node derives the same events from the same entries.
///
/// Spelled `42.3` for the event at place 3 of entry 42, and `42` for the whole of that entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    index: u64,
    within: u32,
}

/// Stands behind everything of its entry.
const WHOLE: u32 = u32::MAX;

impl Position {
    /// The event at this place, from 0, of the entry at `index`.
    pub fn of(index: u64, within: u32) -> Self {
        Self {
            index,
            within: within.min(WHOLE - 1),
        }
    }

    /// Behind everything that the entry at `index` made happen.
    pub fn whole(index: u64) -> Self {
        Self {
            index,
            within: WHOLE,
        }
    }

    /// The entry's log index.
    pub fn index(self) -> u64 {
        self.index
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.within == WHOLE {
            write!(f, "{}", self.index)
        } else {
            write!(f, "{}.{}", self.index, self.within)
        }
    }
}

/// The text is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        match text.split_once('.') {
            None => Ok(Self::whole(decimal(text)?)),
            Some((index, within)) => {
                let within = u32::try_from(decimal(within)?).map_err(|_| NoPosition)?;
                if within == WHOLE {
                    return Err(NoPosition);
                }
                Ok(Self::of(decimal(index)?, within))
            }
        }
    }
}

/// Plain digits: no sign, and no second spelling by leading zeros.
fn decimal(text: &str) -> Result<u64, NoPosition> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return Err(NoPosition);
    }
    text.parse().map_err(|_| NoPosition)
}

#[cfg(test)]
mod tests {
    use super::Position;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        for (text, position) in [
            ("42.0", Position::of(42, 0)),
            ("42.10", Position::of(42, 10)),
            ("42", Position::whole(42)),
            ("0", Position::whole(0)),
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
    fn the_whole_of_an_entry_stands_behind_its_parts_and_before_the_next() {
        assert!(Position::of(42, 9) < Position::of(42, 10));
        assert!(Position::of(42, u32::MAX) < Position::whole(42));
        assert!(Position::whole(42) < Position::of(43, 0));
    }
}

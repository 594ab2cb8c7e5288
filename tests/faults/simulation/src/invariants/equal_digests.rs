//! Invariant: masters that have applied the same entries have equal tables.
//!
//! Source: State Machine Safety (Ongaro and Ousterhout, section 5.4). Typical bugs: a clock, randomness or the order of
//! a hash map in apply (Nomad #13725), and a part of the table that a snapshot omits.

use crate::history::History;

pub const RULE: &str = "digests are equal";

pub fn broken(history: &History) -> Vec<String> {
    let digests = &history.digests;
    let unlike = digests.iter().any(|(_, index, value)| {
        let mut others = digests.iter();
        others.any(|(_, other, theirs)| index == other && value != theirs)
    });
    if unlike {
        vec![format!("{digests:?}")]
    } else {
        Vec::new()
    }
}

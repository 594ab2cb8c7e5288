//! Masters that have applied the same hold the same.
//!
//! Source: State Machine Safety (Ongaro and Ousterhout, section 5.4). The traps: a clock, chance or the order of a hash map
//! in apply (Nomad #13725), and a part of the table that a snapshot leaves out.

use crate::history::History;

pub const RULE: &str = "digests are equal";

pub fn broken(history: &History) -> Vec<String> {
    let digests = &history.digests;
    let unlike = digests
        .windows(2)
        .any(|two| two[0].1 == two[1].1 && two[0].2 != two[1].2);
    if unlike {
        vec![format!("{digests:?}")]
    } else {
        Vec::new()
    }
}

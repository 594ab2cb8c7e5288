//! Invariant: each term has at most one leader.
//!
//! Source: Election Safety (Ongaro and Ousterhout, section 5.2). Typical bugs: a vote that is lost in a crash, and a
//! wiped disk that returns under its old id and votes again.

use std::collections::BTreeMap;

use crate::history::History;

pub const RULE: &str = "one leader per term";

pub fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let mut leaders: BTreeMap<u64, u64> = BTreeMap::new();
    for seen in &history.leading {
        let before = leaders.insert(seen.term, seen.leader);
        if before.is_some_and(|leader| leader != seen.leader) {
            broken.push(format!(
                "node {} said at {} ms that node {} leads in term {}, and it was {before:?} before",
                seen.node,
                seen.at / 1_000_000,
                seen.leader,
                seen.term
            ));
        }
    }
    broken
}

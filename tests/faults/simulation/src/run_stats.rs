//! Statistics of a run: faults, operations and boots.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct RunStats {
    pub faults: BTreeMap<&'static str, u64>,
    pub operations: BTreeMap<&'static str, u64>,
    pub unknown: u64,
    pub acknowledged: u64,
    pub turns: u64,
    pub boots: u64,
    pub packets_lost: u64,
    pub packets_held: u64,
    pub leaders_seen: u64,
}

impl RunStats {
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub fn operation(&mut self, kind: &'static str) {
        *self.operations.entry(kind).or_default() += 1;
    }
}

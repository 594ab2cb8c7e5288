//! A seeded random generator for tests: the same seed makes the same choices. Not for secrets.

use std::time::{SystemTime, UNIX_EPOCH};

/// The environment variable that replays a failed random test.
pub const SEED_VARIABLE: &str = "TRIARCH_SEED";

/// SplitMix64: small, and good enough to choose test cases.
#[derive(Debug, Clone)]
pub struct SeededRandom(u64);

impl SeededRandom {
    /// Creates a generator. The same seed makes the same choices.
    pub fn new(seed: u64) -> Self {
        SeededRandom(seed)
    }

    /// Returns any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        self.next_u64() % bound
    }
}

/// Returns the seeds of a random test: the one in [`SEED_VARIABLE`] if it is set, else `count` fresh ones. The test
/// prints the current seed, so that a failure can be replayed.
pub fn seeds(count: u64) -> Vec<u64> {
    if let Ok(seed) = std::env::var(SEED_VARIABLE) {
        let seed = seed
            .parse()
            .unwrap_or_else(|_| panic!("{SEED_VARIABLE}={seed} is not a number"));
        return vec![seed];
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_nanos() as u64);
    let mut random = SeededRandom::new(now);
    (0..count).map(|_| random.next_u64() >> 32).collect()
}

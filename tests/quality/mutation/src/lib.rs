//! Deliberate bugs, which check that the tests detect bugs.
//!
//! Each [`Mutation`] violates one guarantee of the product, at the one line with its `mutated!(…)`. A build with the
//! feature `mutations` contains all of them, none of them active. The environment variable `TRIARCH_MUTATION` activates
//! one in a process and in the processes that it starts. Without the feature `mutated!(…)` is `false` and this crate is
//! not linked. An optimised program with the feature does not compile.
//!
//! `scripts/mutation.sh` builds once and runs every test and drill against each mutation, the cheapest first. It fails
//! if a mutation survives: see `tests/quality/mutation_gate`.

mod list;

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

pub use list::{Home, Mutation};

/// Environment variable that activates one mutation.
pub const VARIABLE: &str = "TRIARCH_MUTATION";

/// Returns whether this mutation is active. The variable is read once per process.
///
/// Panics on an unknown name, because a misspelt mutation would look like one that no test detects.
pub fn active(mutation: Mutation) -> bool {
    chosen() == Some(mutation)
}

/// Returns the active mutation, if any.
pub fn chosen() -> Option<Mutation> {
    static CHOSEN: OnceLock<Option<Mutation>> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        let known = Mutation::named(&name);
        assert!(
            known.is_some() || name.is_empty(),
            "{VARIABLE}={name} names no mutation; scripts/mutation.sh --list names them all"
        );
        known
    })
}

/// Returns the time in Unix ms that [`Mutation::WallClockInApply`] uses.
pub fn wall_clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

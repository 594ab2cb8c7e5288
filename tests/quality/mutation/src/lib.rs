//! Deliberate bugs, to see that the tests notice them.
//!
//! Each [`Mutation`] breaks one promise of the product, in the one line of it that says `mutated!(…)`. A build with the
//! feature `mutations` holds all of them and does nothing with any; the environment variable `TRIARCH_MUTATION` chooses
//! one for a process and for those it starts. Without the feature `mutated!(…)` is `false`, this crate is not linked,
//! and an optimized program with it does not compile.
//!
//! `scripts/mutation.sh` builds once, runs every test and drill against each mutation, the cheapest first, and
//! fails if one of them survives: see `tests/quality/mutation_gate`.

mod list;

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

pub use list::{Home, Mutation};

/// The environment variable that chooses one.
pub const VARIABLE: &str = "TRIARCH_MUTATION";

/// Whether this one is chosen. The variable is read once for the life of the process.
///
/// Panics if it names none: a misspelt bug must not pass for one that nobody noticed.
pub fn active(mutation: Mutation) -> bool {
    chosen() == Some(mutation)
}

/// The one that is chosen, if any.
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

/// What [`Mutation::WallClockInApply`] looks at: Unix ms.
pub fn wall_clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

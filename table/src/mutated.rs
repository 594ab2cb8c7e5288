//! Switch for deliberate bugs of mutation tests: see `tests/quality/mutation`.

/// Whether this deliberate bug is chosen. Never, and at no cost, without the feature `mutations`.
#[cfg(feature = "mutations")]
macro_rules! mutated {
    ($mutation:ident) => {
        triarch_mutation::active(triarch_mutation::Mutation::$mutation)
    };
}

/// Whether this deliberate bug is chosen. Never, and at no cost, without the feature `mutations`.
#[cfg(not(feature = "mutations"))]
macro_rules! mutated {
    ($mutation:ident) => {
        false
    };
}

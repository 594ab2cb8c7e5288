//! The switch for deliberate bugs. See `tests/quality/mutation`.

/// Returns whether this deliberate bug is active. Never, and at no cost, without the feature `mutations`.
#[cfg(feature = "mutations")]
macro_rules! mutated {
    ($mutation:ident) => {
        triarch_mutation::active(triarch_mutation::Mutation::$mutation)
    };
}

/// Returns whether this deliberate bug is active. Never, and at no cost, without the feature `mutations`.
#[cfg(not(feature = "mutations"))]
macro_rules! mutated {
    ($mutation:ident) => {
        false
    };
}

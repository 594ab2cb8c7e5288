//! Switch for deliberate bugs of mutation tests: see `tests/quality/mutation`.

/// Evaluates to whether this deliberate bug is active. Without the feature `mutations` it is never active, at no cost.
#[cfg(feature = "mutations")]
macro_rules! mutated {
    ($mutation:ident) => {
        triarch_mutation::active(triarch_mutation::Mutation::$mutation)
    };
}

/// Evaluates to whether this deliberate bug is active. Without the feature `mutations` it is never active, at no cost.
#[cfg(not(feature = "mutations"))]
macro_rules! mutated {
    ($mutation:ident) => {
        false
    };
}

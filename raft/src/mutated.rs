//! Switch for deliberate bugs, used by the mutation gate in `tests/quality/mutation`.

/// Evaluates to whether this deliberate bug is active. Never active, and at no cost, without the feature `mutations`.
#[cfg(feature = "mutations")]
macro_rules! mutated {
    ($mutation:ident) => {
        triarch_mutation::active(triarch_mutation::Mutation::$mutation)
    };
}

/// Evaluates to whether this deliberate bug is active. Never active, and at no cost, without the feature `mutations`.
#[cfg(not(feature = "mutations"))]
macro_rules! mutated {
    ($mutation:ident) => {
        false
    };
}

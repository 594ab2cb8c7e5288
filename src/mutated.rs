//! The switch for deliberate bugs: see `tests/quality/mutation`.

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("deliberate bugs are for tests alone: build without --release");

#[cfg(feature = "mutations")]
use triarch_table::Command;

/// What `CancelLostOnFailover` applies on nodes that do not lead.
#[cfg(feature = "mutations")]
pub fn without_cancels(mut commands: Vec<Command>) -> Vec<Command> {
    commands.retain(|command| {
        !matches!(
            command,
            Command::CancelTask { .. } | Command::CancelJob { .. }
        )
    });
    commands
}

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

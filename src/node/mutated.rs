//! Switch for deliberate bugs of the mutation gate: see `tests/quality/mutation`.

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("deliberate bugs are for tests alone: build without --release");

#[cfg(feature = "mutations")]
use triarch_table::Command;

/// Returns the commands that `CancelLostOnFailover` applies on nodes that do not lead.
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

/// Whether this deliberate bug is active. Without the feature `mutations` it never is, at no cost.
#[cfg(feature = "mutations")]
macro_rules! mutated {
    ($mutation:ident) => {
        triarch_mutation::active(triarch_mutation::Mutation::$mutation)
    };
}

/// Whether this deliberate bug is active. Without the feature `mutations` it never is, at no cost.
#[cfg(not(feature = "mutations"))]
macro_rules! mutated {
    ($mutation:ident) => {
        false
    };
}

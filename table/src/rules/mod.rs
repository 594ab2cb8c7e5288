//! State transitions that several commands share: task transitions, attempts, dependencies, quarantine, back-off.

pub(crate) mod attempt;
pub(crate) mod backoff;
pub(crate) mod dependencies;
pub(crate) mod dependency_effect;
pub(crate) mod quarantine;

mod transition;

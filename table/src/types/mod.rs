//! Value types that every other module uses: identifiers, bounds, states. They depend on nothing else in the crate.

pub mod ids;
pub mod limits;
pub mod queue_options;
pub mod state;

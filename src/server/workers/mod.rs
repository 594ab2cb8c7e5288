//! `/v1/workers`: what workers ask for themselves, and what clients ask about them.

mod calls;
mod looks;
mod results;

pub(super) use calls::{lead, routes as worker_routes, turn, worker_id};
pub(super) use looks::{present_state, routes as client_routes};

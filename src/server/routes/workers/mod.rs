//! `/v1/workers`: the protocol that workers speak, and the administration of workers by clients.

mod admin;
mod protocol;
mod results;

pub use admin::{present_state, routes as client_routes};
pub use protocol::{lead, routes as worker_routes, turn, worker_id};

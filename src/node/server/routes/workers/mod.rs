//! `/v1/workers`: the protocol that workers speak, and the administration of workers by clients.

mod admin;
mod envelope;
mod name_taken;
mod protocol;
mod results;
mod secrets;

pub use admin::routes as client_routes;
pub use envelope::output as parse_output;
pub use protocol::{routes as worker_routes, worker_call_error, worker_id};
pub use secrets::WorkerSecret;

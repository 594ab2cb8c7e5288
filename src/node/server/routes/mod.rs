//! Route handlers, one file for each resource of the HTTP interface.
//!
//! A handler reads the request, checks its bounds, proposes one command or reads the table, and writes the response.
//! Decisions, and their timing, are the business of the table and of the leader.
//!
//! # Invariants
//!
//! - Every route is documented: `routes!` adds a handler together with its OpenAPI description.
//! - One user operation is one command, so a failure leaves no half of it.

pub mod backup;
pub mod bulk_tasks;
pub mod cluster;
pub mod events;
pub mod extractors;
pub mod health;
pub mod job_submission;
pub mod jobs;
mod list_filters;
pub mod metrics;
pub mod openapi;
pub mod present;
pub mod queues;
pub mod schedules;
pub mod task_explain;
pub mod task_logs;
pub mod task_rows;
pub mod task_view;
pub mod task_wait;
pub mod tasks;
pub mod wait;
pub mod workers;

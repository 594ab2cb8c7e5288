//! Commands, one file per noun. Each parses its arguments, calls the cluster, and prints the answer.

mod backup;
mod bulk_tasks;
pub mod cluster;
mod cluster_members;
mod cluster_status;
pub mod dev;
pub mod events;
pub mod job;
pub mod queue;
pub mod schedule;
pub mod submit;
pub mod task;
mod task_logs;
pub mod worker;

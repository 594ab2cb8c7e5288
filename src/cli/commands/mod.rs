//! The commands, one file per noun: each parses its arguments, calls the cluster, and prints the answer.

pub mod backup;
pub mod cluster;
pub mod cluster_members;
pub mod dev;
pub mod events;
pub mod job;
pub mod queue;
pub mod schedule;
pub mod server;
pub mod submit;
pub mod task;
pub mod task_logs;
pub mod worker;

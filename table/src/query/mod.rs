//! Read-only queries over the table: lists with filters and cursors, and the explanation why a task does not run.

pub mod explain;
pub mod list;

mod schedules;

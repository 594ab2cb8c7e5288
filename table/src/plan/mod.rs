//! Scheduler: pure functions of the table, the time and the demand of workers. They propose and change nothing; apply
//! decides on each proposal, from the log.
//!
//! - *Which queue* (`fair_share`): queues share the workers they compete for by weight. A queue that is paused, at its
//!   bound of running tasks or at its rate gets nothing.
//! - *Which task*: the first by rank ([`crate::records::queue`]), which combines priority and waiting time. A task that
//!   is too late to start is passed over.
//! - *Which worker* (`worker_selection`): one that takes the task, has room and has demand. The queue's setting decides
//!   between the least and the most loaded one; a worker on an overloaded machine comes last.

mod fair_share;
mod propose;
mod worker_selection;

pub use propose::{Plan, propose, propose_with};
pub use worker_selection::Demand;

//! Scheduler: pure functions of the table, the time and the demand of workers. They propose and change nothing; apply
//! decides on each proposal, from the log.
//!
//! *Which queue* (`fair_share`): queues share the workers they compete for by weight; a queue that is paused, at its bound of
//! running tasks or at its rate gets nothing. *Which task*: the first by rank ([`crate::records::queue`]), which is priority and
//! waiting time, unless it is too late for it to start. *Which worker* (`worker_selection`): of those that take it, have room and
//! ask, the least or the most loaded one, as its queue says; one whose machine is overloaded comes last.

mod fair_share;
mod propose;
mod worker_selection;

pub use propose::{Plan, propose, propose_with};
pub use worker_selection::Demand;

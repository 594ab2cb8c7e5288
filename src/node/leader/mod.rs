//! Leader duties: decisions that the leader makes on its own and proposes to the log, in addition to serving requests.
//!
//! One [`LeaderTerm`] stands for one term of leadership of this node. It owns the [soft state](leader_state::LeaderState)
//! (lease tracker and long-poll registry) and four loops (dispatch, expiry, time, schedules), which end with the term.
//!
//! # Invariants
//!
//! - The loops propose for their own term only, and nothing is forwarded. A leader that was stopped and wakes up in
//!   another leader's term therefore decides nothing.
//! - Soft state is never persisted. A new leader starts empty and gives every worker and lease a full lease time.
//! - Nothing here depends on HTTP.

pub mod clock;
pub mod leader_state;
mod leadership;
pub mod lease_tracker;
pub mod live_output;
mod loops;
mod poll_registry;
mod retry;
mod schedules;
mod term;
pub mod time_correction;
pub mod worker_calls;

pub use leadership::track_leadership;
pub use term::{LeaderTerm, TableNode};

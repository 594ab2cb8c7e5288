//! A cluster of real processes, and what users rely on whatever happens to it.
//!
//! One file per concern. Each test has a cluster of its own; nothing is timed, everything is waited for with a deadline.

mod bad_input;
mod basics;
mod cancel;
mod clients;
mod disk;
mod events;
mod failover;
mod identity;
mod logs;
mod openapi;
mod redirects;
mod restart;
mod schedules;
mod stopped_leader;
mod tasks;
mod workers;

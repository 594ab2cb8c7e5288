//! The worker's runtime against masters that forget it, lose its leases, redirect it, go silent.

mod cluster;
mod leases;
mod registration;
mod results;
#[path = "../scripted/mod.rs"]
mod scripted;

//! The worker runtime with masters that forget it, lose its leases, redirect it, or go silent.

mod cluster;
mod leases;
mod registration;
mod results;
#[path = "../scripted/mod.rs"]
mod scripted;

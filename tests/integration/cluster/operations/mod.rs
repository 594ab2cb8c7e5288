//! Operations: starts, signals, files, metrics, logs, admission control and upgrades.

mod data_directory;
mod logging;
pub mod metrics;
mod overload;
mod resources;
mod signals;
mod startup;
mod time_correction;
mod upgrade;

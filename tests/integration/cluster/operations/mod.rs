//! Operations: starts, signals, files, metrics, logs and admission control.

mod data_directory;
mod logging;
pub mod metrics;
mod overload;
mod resources;
mod signals;
mod startup;

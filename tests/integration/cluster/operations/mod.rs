//! Operations: metrics, logs and admission control.

mod logging;
pub mod metrics;
mod overload;

//! Operations: metrics and admission control.

pub mod metrics;
mod overload;

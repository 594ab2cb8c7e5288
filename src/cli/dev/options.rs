//! Options of a development cluster.

use std::path::PathBuf;

use crate::output::Format;

/// Options of `triarch dev`.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// Number of masters.
    pub nodes: u16,
    /// Number of workers.
    pub workers: u16,
    /// Base port. Master `n` listens on this port plus `n`.
    pub port: u16,
    /// Directory for data and logs. Default: a temporary directory.
    pub data_dir: Option<PathBuf>,
    /// Output format.
    pub format: Format,
}

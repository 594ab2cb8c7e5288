//! State of one benchmark run, shared by all modes.

use std::sync::OnceLock;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::recorder::RunRecorder;
use super::server_metrics::MetricsSnapshot;
use super::settings::Settings;
use crate::context::CommandContext;

/// One benchmark run. Each mode implements its measurement on it.
pub struct BenchRun<'a> {
    pub context: &'a CommandContext,
    pub settings: Settings,
    pub recorder: RunRecorder,
    /// Set by idle runs.
    pub idle_window: OnceLock<IdleWindow>,
    /// Ends the run, because it is over, has failed, or was interrupted.
    pub stop: CancellationToken,
}

/// Metrics of the masters at the start and the end of the observation of waiting workers.
#[derive(Debug)]
pub struct IdleWindow {
    /// Time until all workers waited.
    pub connect: Duration,
    /// Length of the observation.
    pub time: Duration,
    pub from: MetricsSnapshot,
    pub to: MetricsSnapshot,
}

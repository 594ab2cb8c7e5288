//! The command `triarch bench`: runs one mode, cleans up, and prints the report.

use std::process::ExitCode;
use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use super::args::BenchArgs;
use super::bench_run::BenchRun;
use super::mode::Mode;
use super::recorder::RunRecorder;
use super::report::Report;
use super::server_metrics::MetricsSnapshot;
use super::settings::Settings;
use crate::context::CommandContext;
use crate::error::CommandError;
use crate::{output, wait};

impl BenchArgs {
    /// Runs the benchmark.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        let bench = BenchRun {
            context,
            settings: Settings::of(&self),
            recorder: RunRecorder::new(),
            idle_window: OnceLock::new(),
            stop: CancellationToken::new(),
        };
        let before = MetricsSnapshot::take(context).await?;
        let measured = bench.interruptible().await;
        bench.stop.cancel();
        let after = MetricsSnapshot::take(context).await;
        // The cleanup runs for every outcome, so that nothing is left in the cluster.
        let cleanup = bench.clean_up(matches!(measured, Ok(Some(())))).await;
        let Some(()) = measured? else {
            cleanup?;
            output::print_note("Interrupted. The submitted jobs were deleted from the cluster.");
            return Ok(wait::interrupted_exit_code());
        };
        let report = Report::of(&bench, &before, &after?, cleanup?);
        output::print(context.format, &report, Report::render)?;
        if let Err(why) = report.verify() {
            return Err(CommandError::Failed(format!(
                "the figures above are invalid: {why}"
            )));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl BenchRun<'_> {
    /// Measures until the end or Ctrl-C. Returns `None` if interrupted.
    async fn interruptible(&self) -> Result<Option<()>, CommandError> {
        tokio::select! {
            measured = self.measure() => measured.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    }

    async fn measure(&self) -> Result<(), CommandError> {
        match self.settings.mode {
            Mode::Lifecycle => self.lifecycle().await,
            Mode::Submit => self.submit_only().await,
            Mode::Exec => self.exec().await,
            Mode::RoundTrip => self.round_trips().await,
            Mode::Idle => self.idle().await,
            Mode::Mixed => self.mixed().await,
        }
    }
}

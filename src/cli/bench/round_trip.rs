//! Mode `round-trip`: a client submits, waits for the end, sees it, and starts again.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::arrivals::Arrivals;
use super::bench_run::BenchRun;
use crate::error::CommandError;

/// Maximum wait for one task.
const JOB_TIMEOUT: Duration = Duration::from_secs(60);

impl BenchRun<'_> {
    pub async fn round_trips(&self) -> Result<(), CommandError> {
        let arrivals = Arrivals::new(&self.settings);
        let client = async || {
            while let Some(arrival) = arrivals.next().await {
                let submitted = self.submit(arrival).await?;
                let job = self
                    .context
                    .client
                    .wait_job(&submitted.id, Some(JOB_TIMEOUT))
                    .await?;
                if !job.state.is_terminal() {
                    return Err(CommandError::Failed(format!(
                        "job {} has not finished within {} s",
                        job.id,
                        JOB_TIMEOUT.as_secs()
                    )));
                }
                self.recorder.round_trip.add(arrival.due.elapsed());
            }
            Ok(())
        };
        let clients = async {
            try_join_all((0..self.settings.clients).map(|_| client())).await?;
            Ok(())
        };
        self.with_workers(clients).await
    }
}

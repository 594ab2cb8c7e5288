//! Mode `lifecycle`: clients submit while workers lease and report, until every task has its result.

use std::time::Duration;

use super::bench_run::BenchRun;
use crate::error::CommandError;

/// Maximum time without a result before the run counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

impl BenchRun<'_> {
    pub async fn lifecycle(&self) -> Result<(), CommandError> {
        self.with_workers(self.submit_all()).await
    }

    /// Submits while workers run tasks, and ends once all submitted tasks have ended.
    pub async fn with_workers(
        &self,
        submitting: impl Future<Output = Result<(), CommandError>>,
    ) -> Result<(), CommandError> {
        let all = async {
            submitting.await?;
            self.all_ended().await?;
            self.stop.cancel();
            Ok::<(), CommandError>(())
        };
        tokio::try_join!(all, self.run_workers())?;
        Ok(())
    }

    /// Waits until as many tasks have ended as were submitted.
    async fn all_ended(&self) -> Result<(), CommandError> {
        loop {
            let (ended, submitted) = (
                self.recorder.accepted_so_far(),
                self.recorder.submitted_so_far(),
            );
            if ended >= submitted {
                return Ok(());
            }
            if tokio::time::timeout(STALL_TIMEOUT, self.recorder.next_end())
                .await
                .is_err()
            {
                return Err(CommandError::Failed(format!(
                    "{} of {submitted} tasks have no result, and none has come for {} s; see what `{}` says of them",
                    submitted - ended,
                    STALL_TIMEOUT.as_secs(),
                    self.context.command("worker list"),
                )));
            }
        }
    }
}

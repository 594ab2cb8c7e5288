//! Whole lives: clients submit while workers lease and report, until every task has its result.

use std::time::Duration;

use super::{Bench, Failure};

/// A run of which nothing has ended for so long will not end by itself.
const STANDSTILL: Duration = Duration::from_secs(60);

impl Bench<'_> {
    pub(super) async fn whole(&self) -> Result<(), Failure> {
        self.beside_workers(self.submit_all()).await
    }

    /// Submits while workers work, and ends once all that was submitted has ended.
    pub(super) async fn beside_workers(
        &self,
        submitting: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let all = async {
            submitting.await?;
            self.all_ended().await?;
            self.stop.cancel();
            Ok::<(), Failure>(())
        };
        tokio::try_join!(all, self.work())?;
        Ok(())
    }

    /// Waits until as many tasks have ended as were submitted.
    async fn all_ended(&self) -> Result<(), Failure> {
        loop {
            let (ended, submitted) = (
                self.ledger.accepted_so_far(),
                self.ledger.submitted_so_far(),
            );
            if ended >= submitted {
                return Ok(());
            }
            if tokio::time::timeout(STANDSTILL, self.ledger.news())
                .await
                .is_err()
            {
                return Err(Failure::Failed(format!(
                    "{} of {submitted} tasks have no result, and none has come for {} s; see what `{}` says of them",
                    submitted - ended,
                    STANDSTILL.as_secs(),
                    self.session.command("worker list"),
                )));
            }
        }
    }
}

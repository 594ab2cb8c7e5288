//! Round trips: a client submits, waits for the end, sees it, and begins again.

use std::time::Duration;

use futures_util::future::try_join_all;

use super::arrivals::Arrivals;
use super::{Bench, Failure};

/// Longest wait for one task.
const PATIENCE: Duration = Duration::from_secs(60);

impl Bench<'_> {
    pub(super) async fn round_trips(&self) -> Result<(), Failure> {
        let arrivals = Arrivals::new(&self.settings);
        let client = async || {
            while let Some(turn) = arrivals.next().await {
                let submitted = self.submit(turn).await?;
                let job = self
                    .session
                    .client
                    .wait_job(&submitted.id, Some(PATIENCE))
                    .await?;
                if !job.state.is_terminal() {
                    return Err(Failure::Failed(format!(
                        "job {} has not finished within {} s",
                        job.id,
                        PATIENCE.as_secs()
                    )));
                }
                self.ledger.round_trip.add(turn.due.elapsed());
            }
            Ok(())
        };
        let clients = async {
            try_join_all((0..self.settings.clients).map(|_| client())).await?;
            Ok(())
        };
        self.beside_workers(clients).await
    }
}

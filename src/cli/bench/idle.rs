//! Mode `idle`: many waiting workers. Each is registered, holds a poll and sends heartbeats, as `triarch worker` would.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use triarch_sdk::wire::{LeasedTask, ReadQuery};
use triarch_sdk::{Executor, Outcome, Shutdown, TaskContext};

use super::bench_run::{BenchRun, IdleWindow};
use super::server_metrics::MetricsSnapshot;
use crate::error::CommandError;

/// Maximum wait for all workers to register and poll.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval between two checks of the cluster.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum wait for submitted tasks to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Executor that does nothing.
struct NoOp;

impl Executor for NoOp {
    async fn run(&self, _: LeasedTask, _: TaskContext) -> Outcome {
        Outcome::Succeeded(None)
    }
}

impl BenchRun<'_> {
    pub async fn idle(&self) -> Result<(), CommandError> {
        let shutdown = Shutdown::new();
        let workers =
            (0..self.settings.workers).map(|nth| self.sdk_worker(nth, NoOp, shutdown.clone()));
        let workers = async {
            try_join_all(workers).await?;
            Ok(())
        };
        let watching = async {
            let watched = self.observe_idle().await;
            shutdown.finish();
            watched
        };
        tokio::try_join!(watching, workers)?;
        self.record_from_table().await
    }

    async fn observe_idle(&self) -> Result<(), CommandError> {
        let wanted = u64::from(self.settings.workers);
        let begun = Instant::now();
        let from = loop {
            let readings = MetricsSnapshot::take(self.context).await?;
            if readings.polls_held() >= wanted {
                break readings;
            }
            if begun.elapsed() > CONNECT_TIMEOUT {
                return Err(CommandError::Failed(format!(
                    "only {} of {wanted} workers were polling after {} s. The masters and this process need one open file \
                     for each worker: check `ulimit -n`",
                    readings.polls_held(),
                    CONNECT_TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let connect = begun.elapsed();
        let time = self.settings.time().unwrap_or_default();
        let (submitted, ()) = tokio::join!(self.submit_all(), tokio::time::sleep(time));
        submitted?;
        let window = IdleWindow {
            connect,
            time: begun.elapsed() - connect,
            from,
            to: MetricsSnapshot::take(self.context).await?,
        };
        // Only this task sets it.
        let _ = self.idle_window.set(window);
        self.wait_for_empty_queue().await
    }

    async fn wait_for_empty_queue(&self) -> Result<(), CommandError> {
        let begun = Instant::now();
        loop {
            let list = self.context.client.queues(&ReadQuery::default()).await?;
            let queue = list
                .queues
                .iter()
                .find(|queue| queue.name == self.settings.queue);
            match queue {
                Some(queue) if queue.depth + queue.running > 0 => {}
                Some(_) | None => return Ok(()),
            }
            if begun.elapsed() > DRAIN_TIMEOUT {
                return Err(CommandError::Failed(format!(
                    "tasks of queue {} have not ended within {} s",
                    self.settings.queue,
                    DRAIN_TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

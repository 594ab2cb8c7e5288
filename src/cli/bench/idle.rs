//! Many workers that wait: each registered, with a poll that is held and heartbeats, as `triarch worker` would be.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use triarch_sdk::wire::{LeasedTask, ReadQuery};
use triarch_sdk::{Executor, Outcome, Shutdown, TaskContext};

use super::{Bench, Failure};
use crate::cli::bench::server_metrics::Readings;

/// How long all workers may take to register and ask for work.
const CONNECT_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks whether they have.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long what was submitted may take to end.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// What waiting workers cost the masters while they were watched.
#[derive(Debug)]
pub struct Watched {
    /// How long it took until all of them waited.
    pub connect: Duration,
    /// How long they were watched.
    pub time: Duration,
    pub from: Readings,
    pub to: Readings,
}

/// Does nothing.
struct NoOp;

impl Executor for NoOp {
    async fn run(&self, _: LeasedTask, _: TaskContext) -> Outcome {
        Outcome::Succeeded(None)
    }
}

impl Bench<'_> {
    pub(super) async fn idle(&self) -> Result<(), Failure> {
        let shutdown = Shutdown::new();
        let workers =
            (0..self.settings.workers).map(|nth| self.real_worker(nth, NoOp, shutdown.clone()));
        let workers = async {
            try_join_all(workers).await?;
            Ok(())
        };
        let watching = async {
            let watched = self.watch_idle().await;
            shutdown.finish();
            watched
        };
        tokio::try_join!(watching, workers)?;
        self.book_from_the_table().await
    }

    async fn watch_idle(&self) -> Result<(), Failure> {
        let wanted = u64::from(self.settings.workers);
        let begun = Instant::now();
        let from = loop {
            let readings = Readings::take(self.session).await?;
            if readings.polls_held() >= wanted {
                break readings;
            }
            if begun.elapsed() > CONNECT_PATIENCE {
                return Err(Failure::Failed(format!(
                    "{} of {wanted} workers wait for work after {} s; the masters and this program need that many open \
                     files: see `ulimit -n`",
                    readings.polls_held(),
                    CONNECT_PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        let connect = begun.elapsed();
        let time = self.settings.time().unwrap_or_default();
        let (submitted, ()) = tokio::join!(self.submit_all(), tokio::time::sleep(time));
        submitted?;
        let watched = Watched {
            connect,
            time: begun.elapsed() - connect,
            from,
            to: Readings::take(self.session).await?,
        };
        // Nobody else watches in this run.
        let _ = self.watched.set(watched);
        self.queue_runs_dry().await
    }

    async fn queue_runs_dry(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let list = self.session.client.queues(&ReadQuery::default()).await?;
            let queue = list
                .queues
                .iter()
                .find(|queue| queue.name == self.settings.queue);
            match queue {
                Some(queue) if queue.depth + queue.running > 0 => {}
                Some(_) | None => return Ok(()),
            }
            if begun.elapsed() > END_PATIENCE {
                return Err(Failure::Failed(format!(
                    "tasks of queue {} have not ended within {} s",
                    self.settings.queue,
                    END_PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

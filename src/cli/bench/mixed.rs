//! Mode `mixed`: submissions, reads and lists at the same time. In ten requests of a client, seven submit, two read a
//! job, and one lists.

use std::time::Instant;

use futures_util::future::try_join_all;
use triarch_sdk::wire::{ReadQuery, TasksQuery};

use super::arrivals::Arrivals;
use super::bench_run::BenchRun;
use crate::error::CommandError;

/// Number of items in a page, as for a human reader.
const PAGE_SIZE: u32 = 50;

impl BenchRun<'_> {
    pub async fn mixed(&self) -> Result<(), CommandError> {
        let arrivals = Arrivals::new(&self.settings);
        let client = async || {
            let mut nth = 0_u64;
            while let Some(arrival) = arrivals.next().await {
                let submitted = self.submit(arrival).await?;
                nth += 1;
                match nth % 7 {
                    2 | 5 => {
                        let begun = Instant::now();
                        self.context.client.job(&submitted.id).await?;
                        self.recorder.read.add(begun.elapsed());
                    }
                    0 => self.read_lists().await?,
                    _ => {}
                }
            }
            Ok::<(), CommandError>(())
        };
        let clients = async {
            try_join_all((0..self.settings.clients).map(|_| client())).await?;
            Ok(())
        };
        self.with_workers(clients).await
    }

    async fn read_lists(&self) -> Result<(), CommandError> {
        let begun = Instant::now();
        let query = TasksQuery {
            queue: Some(self.settings.queue.clone()),
            limit: Some(PAGE_SIZE),
            ..TasksQuery::default()
        };
        self.context.client.tasks(&query).await?;
        self.recorder.list.add(begun.elapsed());
        let begun = Instant::now();
        self.context.client.queues(&ReadQuery::default()).await?;
        self.recorder.list.add(begun.elapsed());
        Ok(())
    }
}

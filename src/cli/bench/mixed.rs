//! Submissions, reads and lists beside each other: of ten requests of a client seven submit, two read a job, and one lists.

use std::time::Instant;

use futures_util::future::try_join_all;
use triarch_sdk::wire::{ReadQuery, TasksQuery};

use super::arrivals::Arrivals;
use super::{Bench, Failure};

/// A page as a person looks at it.
const PAGE: u32 = 50;

impl Bench<'_> {
    pub(super) async fn mixed(&self) -> Result<(), Failure> {
        let arrivals = Arrivals::new(&self.settings);
        let client = async || {
            let mut nth = 0_u64;
            while let Some(turn) = arrivals.next().await {
                let submitted = self.submit(turn).await?;
                nth += 1;
                match nth % 7 {
                    2 | 5 => {
                        let begun = Instant::now();
                        self.session.client.job(&submitted.id).await?;
                        self.ledger.read.add(begun.elapsed());
                    }
                    0 => self.look_at_lists().await?,
                    _ => {}
                }
            }
            Ok::<(), Failure>(())
        };
        let clients = async {
            try_join_all((0..self.settings.clients).map(|_| client())).await?;
            Ok(())
        };
        self.beside_workers(clients).await
    }

    async fn look_at_lists(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        let query = TasksQuery {
            queue: Some(self.settings.queue.clone()),
            limit: Some(PAGE),
            ..TasksQuery::default()
        };
        self.session.client.tasks(&query).await?;
        self.ledger.list.add(begun.elapsed());
        let begun = Instant::now();
        self.session.client.queues(&ReadQuery::default()).await?;
        self.ledger.list.add(begun.elapsed());
        Ok(())
    }
}

//! The masters and the queues.

use std::time::Duration;

use reqwest::Method;
use url::Url;

use super::call::Call;
use super::handle::Client;
use crate::error::Error;
use crate::wire::{
    AddNode, ClusterQuery, ClusterStatus, HoldQuery, Purge, Purged, Queue, QueueList,
    QueueSettings, ReadQuery, SnapshotWritten, TransferLeader,
};

/// How long something may take that is done to very many tasks.
pub(super) const BULK_TIMEOUT: Duration = Duration::from_secs(120);

fn hold(wait: Duration) -> HoldQuery {
    HoldQuery {
        wait_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    }
}

impl Client {
    /// The masters, as one of them sees them.
    pub async fn cluster(&self, query: &ReadQuery) -> Result<ClusterStatus, Error> {
        self.call(Call::get(&["v1", "cluster"]).query(query)?).await
    }

    /// As [`Client::cluster`], with what that query asks for besides.
    pub async fn cluster_with(&self, query: &ClusterQuery) -> Result<ClusterStatus, Error> {
        self.call(Call::get(&["v1", "cluster"]).query(query)?).await
    }

    /// Makes another voter the leader; the one whose log is furthest, unless told.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<ClusterStatus, Error> {
        let body = TransferLeader { to };
        self.call(Call::post(&["v1", "cluster", "transfer-leader"]).json(&body)?)
            .await
    }

    /// Brings a started, empty master in as a learner; it is promoted once it has caught up, whoever leads then. The answer
    /// comes after `wait` at the latest. Asked again, it is on its way.
    pub async fn add_node(&self, node: &AddNode, wait: Duration) -> Result<ClusterStatus, Error> {
        let call = Call::post(&["v1", "cluster", "nodes"]).query(&hold(wait))?;
        self.call(call.json(node)?.with_hold(wait)).await
    }

    /// Has the leader write a snapshot of all that it has applied, and waits until that is durable.
    pub async fn write_snapshot(&self, wait: Duration) -> Result<SnapshotWritten, Error> {
        let call = Call::post(&["v1", "cluster", "snapshot"]).query(&hold(wait))?;
        self.call(call.with_hold(wait)).await
    }

    /// Takes a master out of the cluster for good: its id is never used again.
    pub async fn remove_node(&self, id: u64) -> Result<ClusterStatus, Error> {
        let path = ["v1", "cluster", "nodes", &id.to_string()];
        self.call(Call::new(Method::DELETE, &path)).await
    }

    /// All queues.
    pub async fn queues(&self, query: &ReadQuery) -> Result<QueueList, Error> {
        self.call(Call::get(&["v1", "queues"]).query(query)?).await
    }

    /// A queue.
    pub async fn queue(&self, name: &str) -> Result<Queue, Error> {
        self.call(Call::get(&["v1", "queues", name])).await
    }

    /// Changes settings of a queue; those left out stay as they are.
    pub async fn set_queue(&self, name: &str, settings: &QueueSettings) -> Result<Queue, Error> {
        let call = Call::new(Method::PUT, &["v1", "queues", name]);
        self.call(call.json(settings)?).await
    }

    /// Cancels what waits in a queue, or forgets its dead letters.
    pub async fn purge_queue(&self, name: &str, purge: Purge) -> Result<Purged, Error> {
        let call = Call::post(&["v1", "queues", name, "purge"]).json(&purge)?;
        self.call(call.with_hold(BULK_TIMEOUT)).await
    }

    /// Asks who the masters are, so that a client that was given one of them outlives it.
    pub async fn learn_masters(&self) -> Result<(), Error> {
        let status = self.cluster(&ReadQuery::default()).await?;
        let urls = status
            .nodes
            .iter()
            .filter_map(|node| Url::parse(&format!("http://{}", node.addr)).ok());
        self.inner.masters.learn(urls);
        Ok(())
    }
}

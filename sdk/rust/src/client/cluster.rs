//! The masters and the queues.

use std::time::Duration;

use reqwest::Method;
use url::Url;

use super::Client;
use super::call::Call;
use crate::error::Error;
use crate::wire::{AddNode, ClusterStatus, QueueList, ReadQuery, TransferLeader};

/// How long the cluster may hold a request to bring a master in.
const ADD_PATIENCE: Duration = Duration::from_secs(40);

impl Client {
    /// The masters, as one of them sees them.
    pub async fn cluster(&self, query: &ReadQuery) -> Result<ClusterStatus, Error> {
        self.call(Call::get(&["v1", "cluster"]).query(query)?).await
    }

    /// Makes another voter the leader; the one whose log is furthest, unless told.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<ClusterStatus, Error> {
        let body = TransferLeader { to };
        self.call(Call::post(&["v1", "cluster", "transfer-leader"]).json(&body)?)
            .await
    }

    /// Brings a started, empty master in; it is promoted once it has caught up. Asked again, it goes on where it was.
    pub async fn add_node(&self, node: &AddNode) -> Result<ClusterStatus, Error> {
        let call = Call::post(&["v1", "cluster", "nodes"]).json(node)?;
        self.call(call.held(ADD_PATIENCE)).await
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

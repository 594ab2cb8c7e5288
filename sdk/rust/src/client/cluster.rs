//! Calls about the masters and the queues.

use std::time::Duration;

use reqwest::Method;
use url::Url;

use super::call::Call;
use super::handle::Client;
use crate::error::Error;
use crate::wire::{
    AddNode, ClusterQuery, ClusterStatus, HoldQuery, PageQuery, Purge, Purged, Queue, QueueList,
    QueueSettings, ReadQuery, SnapshotWritten, TimeSetBack, TransferLeader, UpgradeCluster,
};

/// Maximum time of a call that changes a large number of tasks.
pub(super) const BULK_TIMEOUT: Duration = Duration::from_secs(120);

fn hold(wait: Duration) -> HoldQuery {
    HoldQuery {
        wait_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    }
}

impl Client {
    /// Returns the masters, as one of them sees them.
    pub async fn cluster(&self, query: &ReadQuery) -> Result<ClusterStatus, Error> {
        self.call(Call::get(&["v1", "cluster"]).query(query)?).await
    }

    /// Returns the masters with the further details that the query selects. See [`Client::cluster`].
    pub async fn cluster_with(&self, query: &ClusterQuery) -> Result<ClusterStatus, Error> {
        self.call(Call::get(&["v1", "cluster"]).query(query)?).await
    }

    /// Makes another voter the leader. Default: the one whose log is furthest.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<ClusterStatus, Error> {
        let body = TransferLeader { to };
        let call = Call::post(&["v1", "cluster", "transfer-leader"]).once();
        self.call(call.json(&body)?).await
    }

    /// Raises the level of the cluster's formats. Default: to the highest that the leader understands.
    pub async fn upgrade_cluster(&self, level: Option<u32>) -> Result<ClusterStatus, Error> {
        let body = UpgradeCluster { level };
        self.call(Call::post(&["v1", "cluster", "upgrade"]).json(&body)?)
            .await
    }

    /// Sets the time of the table back to the masters' clocks, after most of them were ahead once.
    pub async fn set_time_back(&self) -> Result<TimeSetBack, Error> {
        self.call(Call::post(&["v1", "cluster", "set-time-back"]))
            .await
    }

    /// Adds a started, empty master as a learner. Whichever master leads then promotes it once it has caught up. The
    /// answer comes after `wait` at the latest. A repeated call finds it in progress.
    pub async fn add_node(&self, node: &AddNode, wait: Duration) -> Result<ClusterStatus, Error> {
        let call = Call::post(&["v1", "cluster", "nodes"]).query(&hold(wait))?;
        self.call(call.json(node)?.with_hold(wait)).await
    }

    /// Asks the leader for a snapshot of everything that it has applied, and waits until that is durable.
    pub async fn write_snapshot(&self, wait: Duration) -> Result<SnapshotWritten, Error> {
        let call = Call::post(&["v1", "cluster", "snapshot"]).query(&hold(wait))?;
        self.call(call.with_hold(wait)).await
    }

    /// Removes a master from the cluster permanently: its id is never used again.
    pub async fn remove_node(&self, id: u64) -> Result<ClusterStatus, Error> {
        let path = ["v1", "cluster", "nodes", &id.to_string()];
        self.call(Call::new(Method::DELETE, &path)).await
    }

    /// Returns all queues, page after page.
    pub async fn queues(&self, query: &ReadQuery) -> Result<QueueList, Error> {
        let mut all = QueueList::default();
        let mut page = PageQuery {
            consistency: query.consistency,
            ..PageQuery::default()
        };
        loop {
            let call = Call::get(&["v1", "queues"]).query(&page)?;
            let list: QueueList = self.call(call).await?;
            all.queues.extend(list.queues);
            page.after = list.next;
            if page.after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Returns a queue.
    pub async fn queue(&self, name: &str) -> Result<Queue, Error> {
        self.call(Call::get(&["v1", "queues", name])).await
    }

    /// Changes settings of a queue. Settings left out stay as they are.
    pub async fn set_queue(&self, name: &str, settings: &QueueSettings) -> Result<Queue, Error> {
        let call = Call::new(Method::PUT, &["v1", "queues", name]);
        self.call(call.json(settings)?).await
    }

    /// Cancels the waiting tasks of a queue, or forgets its dead letters.
    pub async fn purge_queue(&self, name: &str, purge: Purge) -> Result<Purged, Error> {
        let call = Call::post(&["v1", "queues", name, "purge"]).json(&purge)?;
        self.call(call.with_hold(BULK_TIMEOUT)).await
    }

    /// Reads the list of masters, so that the client survives the loss of the ones that it was given.
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

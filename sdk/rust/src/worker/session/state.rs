//! The state of a session that its concurrent parts share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::client::Client;
use crate::wire::{Registered, RunningTask};
use crate::worker::attempt_registry::AttemptRegistry;
use crate::worker::config::WorkerConfig;
use crate::worker::executor::{Executor, StopReason};
use crate::worker::shutdown::Shutdown;

/// The reason why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum SessionEnd {
    /// The cluster does not know this worker, or no longer does.
    Unknown,
    /// The worker leaves, and has done everything possible before that.
    Leaving,
}

/// The master that answers heartbeats, and how often they stopped being answered. When either changes, a poll sent
/// before that may wait for an answer that will never come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LeaderContact {
    pub(super) leader: Option<Url>,
    pub(super) lapses: u64,
}

impl LeaderContact {
    /// Records an answered heartbeat. Returns whether it changes anything.
    pub(super) fn record_answer(&mut self, leader: Option<Url>, lapsed: bool) -> bool {
        // `None`: another call has just failed. The next heartbeat shows the leader.
        let moved = leader.is_some() && self.leader != leader;
        if moved {
            self.leader = leader;
        }
        self.lapses += u64::from(lapsed);
        moved || lapsed
    }
}

/// The session of one registration.
pub(in crate::worker) struct Session<E> {
    pub(super) client: Client,
    pub(super) config: WorkerConfig,
    pub(super) executor: Arc<E>,
    pub(super) shutdown: Shutdown,
    pub(super) attempts: Arc<AttemptRegistry>,
    pub(super) id: String,
    pub(super) heartbeat_interval: Duration,
    pub(super) lease: Duration,
    /// When the latest acknowledged request was sent.
    pub(super) acknowledged: watch::Sender<Instant>,
    /// The master that answers heartbeats, and the number of lapses.
    pub(super) leader_contact: watch::Sender<LeaderContact>,
    /// Cancelled when the cluster asks the worker to drain.
    pub(super) drain: CancellationToken,
}

impl<E: Executor> Session<E> {
    pub(in crate::worker) fn new(
        client: Client,
        config: WorkerConfig,
        executor: Arc<E>,
        shutdown: Shutdown,
        registered: &Registered,
        registered_at: Instant,
    ) -> Arc<Self> {
        let attempts = Arc::new(AttemptRegistry::new(config.register.slots));
        Arc::new(Self {
            attempts,
            id: registered.id.clone(),
            heartbeat_interval: Duration::from_millis(registered.heartbeat_ms.max(10)),
            lease: Duration::from_millis(registered.lease_ms.max(100)),
            acknowledged: watch::Sender::new(registered_at),
            leader_contact: watch::Sender::new(LeaderContact {
                leader: client.leader(),
                lapses: 0,
            }),
            drain: CancellationToken::new(),
            client,
            config,
            executor,
            shutdown,
        })
    }

    pub(super) fn apply_directives(
        &self,
        cancel: &[String],
        lost: &[String],
        drain: bool,
        sent: &[RunningTask],
    ) {
        self.attempts.disown(cancel, sent, StopReason::Cancelled);
        self.attempts.disown(lost, sent, StopReason::Lost);
        if drain && !self.drain.is_cancelled() {
            tracing::info!(
                "the cluster asks this worker to drain: finishing its attempts, then leaving"
            );
            self.drain.cancel();
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.shutdown.is_asked() || self.drain.is_cancelled()
    }

    pub(super) async fn leaving(&self) {
        tokio::select! {
            () = self.shutdown.asked() => {}
            () = self.drain.cancelled() => {}
        }
    }

    /// Waits for the end of the grace period. A worker that is asked to stop has one; one that is drained has all the
    /// time its tasks take.
    pub(super) async fn grace(self: Arc<Self>) {
        let grace = async {
            self.shutdown.asked().await;
            tokio::time::sleep(self.config.grace).await;
        };
        tokio::select! {
            () = grace => {}
            () = self.shutdown.asked_now() => {}
        }
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.acknowledged.borrow().elapsed() >= self.lease
    }

    pub(super) fn acknowledge(&self, sent_at: Instant) {
        self.acknowledged.send_if_modified(|last| {
            let later = sent_at > *last;
            *last = sent_at.max(*last);
            later
        });
    }
}

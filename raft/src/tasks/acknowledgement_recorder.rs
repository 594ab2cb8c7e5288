//! Keeps what is known to be acknowledged: takes it from openraft while this node leads, and writes it to disk.
//!
//! The file is written once a second while it changes, and not synced: what a power cut takes of it is known to other
//! nodes. A loss that this node has learned of is synced, because it decides on votes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::apply::applier::Raft;
use crate::fatal::FatalErrorSignal;
use crate::protocol::acknowledged::Acknowledged;
use crate::state_machine::StateMachine;
use crate::storage::open::Directory;

/// Interval between two writes of what has changed.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Time for the answer by which the other node learns of the contradiction too.
const FAREWELL_TIME: Duration = Duration::from_millis(100);

enum Event {
    Tick,
    Loss,
    Stopping,
    Contradiction(String),
}

/// Task that records acknowledgements.
pub(crate) struct AcknowledgementRecorder<S: StateMachine> {
    pub raft: Raft<S>,
    pub acknowledged: Arc<Acknowledged>,
    pub directory: Arc<Directory>,
    pub fatal_error: FatalErrorSignal,
    pub tick: Duration,
    pub stopping: watch::Receiver<bool>,
}

impl<S: StateMachine> AcknowledgementRecorder<S> {
    pub(crate) async fn run(self) {
        let mut contradiction = self.acknowledged.contradiction();
        let mut stopping = self.stopping.clone();
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut saved_at = Instant::now();
        let mut failed = false;
        loop {
            // No reference to what a channel holds may live while the file is written.
            let event = tokio::select! {
                _ = ticks.tick() => Event::Tick,
                () = self.acknowledged.loss() => Event::Loss,
                _ = stopping.wait_for(|stopping| *stopping) => Event::Stopping,
                found = contradiction.wait_for(Option::is_some) => {
                    Event::Contradiction(found.ok().and_then(|why| why.clone()).unwrap_or_default())
                }
            };
            let urgent = match event {
                Event::Tick => false,
                Event::Loss => true,
                Event::Stopping => {
                    self.record();
                    let _ = self.save().await;
                    return;
                }
                Event::Contradiction(why) => {
                    let _ = self.save().await;
                    tokio::time::sleep(FAREWELL_TIME).await;
                    return self.fatal_error.set(why);
                }
            };
            self.record();
            if urgent || saved_at.elapsed() >= SAVE_INTERVAL {
                saved_at = Instant::now();
                let result = self.save().await;
                if let Err(error) = &result
                    && !failed
                {
                    tracing::warn!(%error, "what the nodes have acknowledged cannot be written to the data directory: after a restart this node knows less of it");
                }
                failed = result.is_err();
            }
        }
    }

    /// Takes up what the members have acknowledged to this node.
    fn record(&self) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let vote = metrics.vote;
        if vote.committed {
            self.acknowledged
                .record_leader_of_term(vote.leader_id.term, vote.leader_id.voted_for);
        }
        let Some(replication) = &metrics.replication else {
            return;
        };
        let membership = metrics.membership_config.membership();
        let members = replication
            .iter()
            .filter(|(id, _)| membership.get_node(id).is_some());
        self.acknowledged
            .record_members(members.filter_map(|(id, matched)| Some((*id, (*matched)?))));
    }

    async fn save(&self) -> Result<(), String> {
        let Some(unsaved) = self.acknowledged.take_unsaved() else {
            return Ok(());
        };
        let directory = Arc::clone(&self.directory);
        let written = tokio::task::spawn_blocking(move || {
            let saved = directory.save_acknowledged(&unsaved.text, unsaved.durable);
            saved.map(|()| unsaved.durable)
        });
        match written.await {
            Ok(Ok(durable)) => {
                if durable {
                    self.acknowledged.record_saved();
                }
                Ok(())
            }
            Ok(Err(e)) => Err(e.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }
}

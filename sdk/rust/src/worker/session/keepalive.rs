//! Staying known, and knowing when one is not: heartbeats, the fence, and who the masters are.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use url::Url;

use super::{Session, StopReason};
use crate::error::Error;
use crate::wire::{Heartbeat, ProblemCode};
use crate::worker::executor::Executor;
use crate::worker::machine::Machine;

/// How often to ask who the masters are.
const LEARN_INTERVAL: Duration = Duration::from_secs(60);

/// Who answers heartbeats, and how often they stopped being answered. When either changes, a poll that was sent before
/// may wait for an answer that will never come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contact {
    pub(super) leader: Option<Url>,
    pub(super) lapses: u64,
}

impl Contact {
    /// A heartbeat was answered; tells whether that changes anything.
    fn heard(&mut self, leader: Option<Url>, lapsed: bool) -> bool {
        // None: another call has just failed; who leads will be seen by the next heartbeat.
        let moved = leader.is_some() && self.leader != leader;
        if moved {
            self.leader = leader;
        }
        self.lapses += u64::from(lapsed);
        moved || lapsed
    }
}

impl<E: Executor> Session<E> {
    /// Confirms what runs, again and again, until the cluster says it does not know the worker.
    pub(super) async fn heartbeats(&self) {
        let mut ticks = tokio::time::interval(self.heartbeat_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lapsed = false;
        let mut machine = Machine::default();
        loop {
            ticks.tick().await;
            let running = self.attempts.confirmed();
            let heartbeat = Heartbeat {
                running,
                load: machine.look(),
            };
            let begun = Instant::now();
            // Not longer than until the next: that one knows more.
            let deadline = self.heartbeat_interval.max(Duration::from_millis(250));
            match self.client.heartbeat(&self.id, &heartbeat, deadline).await {
                Ok(answer) => {
                    self.acknowledge(begun);
                    self.obey(
                        &answer.cancel,
                        &answer.lost,
                        answer.drain,
                        &heartbeat.running,
                    );
                    self.contact
                        .send_if_modified(|contact| contact.heard(self.client.leader(), lapsed));
                    lapsed = false;
                }
                Err(Error::Api(problem)) if problem.is(ProblemCode::UnknownWorker) => {
                    tracing::warn!(worker = self.id, %problem, "the cluster does not know this worker");
                    return;
                }
                Err(error) => {
                    tracing::warn!(worker = self.id, %error, "a heartbeat was not answered");
                    lapsed = true;
                }
            }
        }
    }

    /// Asks now and then who the masters are, so that a worker that was given one of them outlives it. Beside
    /// everything else: nothing waits for it.
    pub(super) async fn learn_masters(&self) {
        let mut ticks = tokio::time::interval(LEARN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.client.learn_masters().await {
                tracing::debug!(%error, "could not ask who the masters are");
            }
        }
    }

    /// Ends everything that runs when the cluster has acknowledged nothing for a whole lease: by then others may have
    /// been given the same tasks. Judged by the monotonic clock, from when the acknowledged request was sent.
    pub(super) async fn fence(&self) {
        let mut acknowledged = self.acknowledged.subscribe();
        loop {
            let last = *acknowledged.borrow_and_update();
            tokio::select! {
                _ = acknowledged.changed() => {}
                () = tokio::time::sleep_until(last + self.lease) => {
                    let stopped = self.attempts.stop_running(StopReason::Lost);
                    if stopped > 0 {
                        let lease_ms = self.lease.as_millis();
                        tracing::warn!(stopped, "heard nothing for {lease_ms} ms: the leases are over");
                    }
                    if acknowledged.changed().await.is_err() {
                        return;
                    }
                }
            }
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

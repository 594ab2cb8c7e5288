//! Heartbeats, the fence that stops attempts whose leases may be over, and discovery of the masters.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use super::exchange::log_problems;
use super::state::Session;
use crate::error::Error;
use crate::wire::{Heartbeat, ProblemCode};
use crate::worker::executor::{Executor, StopReason};
use crate::worker::host_load::HostLoadSampler;

/// Interval between two reads of the list of masters.
const MASTER_DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);

impl<E: Executor> Session<E> {
    /// Confirms the leases repeatedly, until the cluster says that it does not know the worker.
    pub(super) async fn heartbeats(&self) {
        let mut lapsed = false;
        let mut host_load = HostLoadSampler::default();
        let mut next = Instant::now();
        loop {
            sleep_until(next).await;
            let running = self.attempts.held_leases();
            let heartbeat = Heartbeat {
                running,
                load: host_load.sample(),
            };
            let begun = Instant::now();
            next = begun + self.heartbeat_interval;
            // Not longer than until the next heartbeat, which knows more.
            let deadline = self.heartbeat_interval.max(Duration::from_millis(250));
            match self.client.heartbeat(&self.id, &heartbeat, deadline).await {
                Ok(answer) => {
                    self.acknowledge(begun);
                    next = begun
                        + heartbeat_interval(
                            answer.heartbeat_ms,
                            self.heartbeat_interval,
                            self.lease,
                        );
                    self.apply_directives(
                        &answer.cancel,
                        &answer.lost,
                        answer.drain,
                        &heartbeat.running,
                    );
                    log_problems(&answer.problems);
                    self.leader_contact.send_if_modified(|contact| {
                        contact.record_answer(self.client.leader(), lapsed)
                    });
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

    /// Reads the list of masters at intervals, so that the worker survives the loss of the ones that it was given. Runs
    /// concurrently: nothing waits for it.
    pub(super) async fn learn_masters(&self) {
        let mut ticks = tokio::time::interval(MASTER_DISCOVERY_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.client.learn_masters().await {
                tracing::debug!(%error, "could not refresh the list of masters");
            }
        }
    }

    /// Stops every running attempt when the cluster has acknowledged nothing for a whole lease, because others may have
    /// leased the same tasks by then. The monotonic clock counts, from when the acknowledged request was sent.
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
                        tracing::warn!(stopped, "no answer from the cluster for {lease_ms} ms: the leases have expired, stopping their attempts");
                    }
                    if acknowledged.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Returns the time between two heartbeats. A cluster with many workers may ask for fewer heartbeats than at
/// registration. The interval is at most half a lease, or the initial one if that is longer, because heartbeats keep
/// the leases alive.
fn heartbeat_interval(requested_ms: Option<u64>, initial: Duration, lease: Duration) -> Duration {
    let most = (lease / 2).max(initial);
    requested_ms.map_or(initial, |requested_ms| {
        Duration::from_millis(requested_ms).clamp(initial, most)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_come_when_asked_for_but_often_enough_for_a_lease() {
        let ms = Duration::from_millis;
        let next = |requested_ms| heartbeat_interval(requested_ms, ms(2_000), ms(10_000));
        assert_eq!(next(None), ms(2_000), "an older master says nothing");
        assert_eq!(next(Some(3_500)), ms(3_500));
        assert_eq!(next(Some(0)), ms(2_000));
        assert_eq!(next(Some(u64::MAX)), ms(5_000));
        assert_eq!(heartbeat_interval(Some(9), ms(300), ms(400)), ms(300));
    }
}

//! The sender of live output: it sends the output of attempts to the leader, for users who watch them run.
//!
//! It runs concurrently. Only the end of an attempt that wrote something waits for it, and only for a bounded time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::state::Session;
use crate::wire::{OutputEnds, SendOutput, SentChunk};
use crate::worker::attempt_registry::LeaseKey;
use crate::worker::executor::Executor;
use crate::worker::spool::Sending;

/// Minimum time between two sends: normally, and for attempts that wait for it to end.
const SEND_INTERVAL: Duration = Duration::from_millis(250);
const SEND_INTERVAL_AWAITED: Duration = Duration::from_millis(20);
/// Maximum time of one request. The next one carries the same output, and more.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Approximate bytes in one request, and of one attempt in it.
const BYTES_MAX: usize = 1 << 20;
const BYTES_PER_ATTEMPT_MAX: usize = 128 << 10;

impl<E: Executor> Session<E> {
    /// Sends output as it is written. Sends the kept output again to a new leader. Never returns.
    pub(super) async fn send_output(&self) {
        let mut contact = self.leader_contact.subscribe();
        // The attempt where the last request ended, so that an attempt with much output does not hold back the others.
        let mut after: Option<LeaseKey> = None;
        let mut sent_at: Option<Instant> = None;
        loop {
            if contact.has_changed().unwrap_or(false) {
                contact.borrow_and_update();
                self.attempts.for_each_running(|_, attempt| {
                    attempt.spool().send_again();
                    true
                });
            }
            if !self.has_output() {
                tokio::select! {
                    () = self.attempts.output_signal().written() => {}
                    Ok(()) = contact.changed() => contact.mark_changed(),
                }
                continue;
            }
            if let Some(sent_at) = sent_at {
                tokio::select! {
                    () = tokio::time::sleep_until(sent_at + SEND_INTERVAL) => {}
                    () = self.attempts.output_signal().awaited() => {
                        tokio::time::sleep_until(sent_at + SEND_INTERVAL_AWAITED).await;
                    }
                }
            }
            let sending = self.take_output(&mut after);
            sent_at = Some(Instant::now());
            if !sending.is_empty() {
                self.exchange_output(sending).await;
            }
            self.attempts.output_signal().settled();
        }
    }

    fn has_output(&self) -> bool {
        let mut found = false;
        self.attempts.for_each_running(|_, attempt| {
            found = attempt.spool().has_unsent();
            !found
        });
        found
    }

    fn take_output(&self, after: &mut Option<LeaseKey>) -> Vec<(LeaseKey, Sending)> {
        let mut taken: Vec<(LeaseKey, Sending)> = Vec::new();
        let mut room = BYTES_MAX;
        let last = after.take();
        for behind in [true, false] {
            // Those after the last one first, then the others from the beginning.
            self.attempts.for_each_running(|key, attempt| {
                if last.as_ref().is_none_or(|last| key > last) != behind || room == 0 {
                    return room > 0;
                }
                let bytes_max = room.min(BYTES_PER_ATTEMPT_MAX);
                if let Some(sending) = attempt.spool().take(bytes_max) {
                    room = room.saturating_sub(sending.cost());
                    *after = Some(key.clone());
                    taken.push((key.clone(), sending));
                }
                true
            });
        }
        taken
    }

    async fn exchange_output(&self, sending: Vec<(LeaseKey, Sending)>) {
        let chunks = sending.iter().flat_map(|(key, sending)| {
            let chunks = sending.chunks.iter().zip(&sending.gaps);
            chunks.map(|(chunk, gap)| SentChunk {
                task: key.task.clone(),
                token: key.token,
                stream: chunk.stream,
                offset: chunk.offset,
                gap: *gap,
                text: chunk.text.clone(),
            })
        });
        let output = SendOutput {
            chunks: chunks.collect(),
        };
        match self
            .client
            .send_output(&self.id, &output, SEND_TIMEOUT)
            .await
        {
            Ok(answer) => {
                let ends = answer.attempts.into_iter().map(|ends| {
                    let (task, token) = (ends.task.clone(), ends.token);
                    (LeaseKey { task, token }, ends)
                });
                let ends: BTreeMap<LeaseKey, OutputEnds> = ends.collect();
                for (key, sending) in sending {
                    self.attempts.with_running(&key, |attempt| {
                        attempt.spool().settle(&sending, ends.get(&key));
                    });
                }
            }
            // The output stays unsent, and is sent again.
            Err(error) => tracing::debug!(worker = self.id, %error, "output was not sent"),
        }
    }
}

//! Server-sent event stream of one reader.
//!
//! A stream holds only a position, and reads more of the feed when the connection takes more. A slow reader therefore
//! costs one page of text. A reader that falls behind the kept history gets a last message with that error, and its
//! stream ends.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use triarch_sdk::wire;

use super::filter::Filter;
use super::present::{event_type, to_wire};
use crate::feed::{Page, Position, PositionGone};
use crate::server::app::App;
use crate::server::http::shared_pool::Share;
use crate::server::protocol::problem::{Code, Problem};

/// Maximum time between two messages. A keep-alive shows that the connection lives, and carries the reader's position.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum time between two reads of the feed, so that many readers of a busy cluster do not wake for every entry.
const READ_INTERVAL: Duration = Duration::from_millis(10);
/// Last message of a stream on a node that has lost the majority.
const MAJORITY_LOST: &[u8] =
    b": this node is out of touch with a majority of the masters: go on at another one\n\n";
/// Reconnection delay of the server-sent events protocol.
const RECONNECT_DELAY_MS: u64 = 1_000;

/// State of one stream.
pub struct EventStream {
    app: App,
    filter: Filter,
    after: Position,
    grown: watch::Receiver<u64>,
    pending: VecDeque<Bytes>,
    next_read: Instant,
    next_keep_alive: Instant,
    ended: bool,
    _place: Share,
}

impl EventStream {
    /// Creates a stream of the events after this position. It returns its place to the pool when it ends.
    pub fn new(app: App, filter: Filter, after: Position, place: Share) -> Self {
        let now = Instant::now();
        // The position comes first, so that a reader cut off before any event continues from here too.
        let preamble = format!("retry: {RECONNECT_DELAY_MS}\nid: {after}\n\n");
        Self {
            grown: app.table.feed.subscribe(),
            app,
            filter,
            after,
            pending: VecDeque::from([Bytes::from(preamble)]),
            next_read: now,
            next_keep_alive: now + KEEP_ALIVE_INTERVAL,
            ended: false,
            _place: place,
        }
    }

    /// Returns the messages.
    pub fn messages(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        stream::unfold(self, async |mut stream_state| {
            let message = stream_state.next().await?;
            Some((Ok(message), stream_state))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(message) = self.pending.pop_front() {
            return Some(message);
        }
        while !self.ended {
            self.grown.borrow_and_update();
            let page = match self.app.table.feed.read(self.after) {
                Ok(page) => page,
                Err(gone) => {
                    self.ended = true;
                    let problem = position_gone(gone).to_json();
                    let event = wire::event::GONE;
                    return Some(format!("event: {event}\ndata: {problem}\n\n").into());
                }
            };
            self.next_read = Instant::now() + READ_INTERVAL;
            let text = self.encode(&page);
            self.after = page.end;
            if !text.is_empty() {
                self.next_keep_alive = Instant::now() + KEEP_ALIVE_INTERVAL;
                return Some(text.into());
            }
            if Instant::now() >= self.next_keep_alive {
                return Some(self.keep_alive());
            }
            if !page.is_last {
                // This page held only events that the filter drops. Other tasks get their turn in between.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                _ = self.grown.changed() => sleep_until(self.next_read).await,
                () = sleep_until(self.next_keep_alive) => {}
                () = self.app.majority_lost() => {
                    // No event arrives here for as long as that lasts. The reader goes on at another node.
                    self.ended = true;
                    return Some(Bytes::from_static(MAJORITY_LOST));
                }
                () = self.app.shutdown.cancelled() => {
                    self.ended = true;
                    return Some(Bytes::from_static(b": this node is stopping\n\n"));
                }
            }
        }
        None
    }

    /// Builds a message without events, with the reader's position.
    fn keep_alive(&mut self) -> Bytes {
        self.next_keep_alive = Instant::now() + KEEP_ALIVE_INTERVAL;
        format!(": keep-alive\nid: {}\n\n", self.after).into()
    }

    fn encode(&self, page: &Page) -> String {
        let mut text = String::new();
        for chunk in &page.chunks {
            let at = wire::Timestamp::from_unix_ms(chunk.at_ms());
            let new = chunk
                .records()
                .filter(|(position, _)| *position > self.after);
            for (position, record) in new {
                let event_type = event_type(record);
                if !self.filter.matches(event_type, record) {
                    continue;
                }
                let id = position.to_string();
                let detail = to_wire(record);
                match serde_json::to_string(&wire::Event { id, at, detail }) {
                    Ok(data) => {
                        // A write to a string does not fail.
                        let _ = write!(
                            text,
                            "id: {position}\nevent: {event_type}\ndata: {data}\n\n"
                        );
                    }
                    Err(error) => {
                        tracing::error!(%error, %position, "an event cannot be serialized")
                    }
                }
            }
        }
        text
    }
}

/// Builds the problem for a reader whose position is no longer kept.
pub fn position_gone(gone: PositionGone) -> Problem {
    Problem::new(
        Code::PositionGone,
        format!(
            "the events after the requested position are no longer kept here; those after {} are: read the current state, \
             and resume from there",
            gone.oldest
        ),
    )
    .with("oldest", gone.oldest.to_string())
}

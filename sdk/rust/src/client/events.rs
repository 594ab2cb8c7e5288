//! Event streams that continue over failovers.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::header::ACCEPT;
use tokio::time::timeout;
use url::Url;

use super::call::Call;
use super::handle::Client;
use super::retry::StreamPolicy;
use super::text::quote;
use crate::error::Error;
use crate::wire::{Event, EventsQuery, Problem, event};

/// A master that sends nothing for this long is considered dead. A live one sends something every ten seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(25);
/// Maximum time until a master begins. It may itself wait five seconds, to catch up with this reader.
const OPEN_TIMEOUT: Duration = Duration::from_secs(8);
/// First and longest wait between two rounds over the masters.
const ROUND_DELAY_MIN: Duration = Duration::from_millis(50);
const ROUND_DELAY_MAX: Duration = Duration::from_secs(1);
/// Maximum length of a message in bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Events in the order of the log, without gaps or duplicates, even when masters fail.
///
/// The stream stays with one master. When that one falls silent, it continues at another, after the last event
/// received. It ends with an error in two cases:
///
/// - The next events are not kept any more ([`ProblemCode::PositionGone`](crate::wire::ProblemCode)).
/// - No master could be reached within the client's deadline. The caller may then ask for the next event again.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    query: EventsQuery,
    /// The position to continue from: the id of the last message, or the one the caller gave.
    after: Option<String>,
    master: Url,
    connection: Option<reqwest::Response>,
    parser: SseParser,
    ready: VecDeque<Event>,
}

impl Client {
    /// Follows events from `query.after`, or from now on. "Now" is when the first call of [`EventStream::next`] or
    /// [`EventStream::connect`] has reached a master.
    pub fn events(&self, query: EventsQuery) -> EventStream {
        let after = query.after.clone();
        EventStream {
            client: self.clone(),
            query: EventsQuery {
                after: None,
                ..query
            },
            after,
            master: self.inner.masters.first(),
            connection: None,
            parser: SseParser::default(),
            ready: VecDeque::new(),
        }
    }
}

impl EventStream {
    /// Waits for the next event and returns it. Cancel-safe: the call may be dropped and repeated.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.more().await?;
        }
    }

    /// Connects to a master and begins the stream. Optional: [`EventStream::next`] does the same. No event from here on
    /// is missed.
    pub async fn connect(&mut self) -> Result<(), Error> {
        while self.connection.is_none() || self.after.is_none() {
            self.more().await?;
        }
        Ok(())
    }

    /// Reads on, from another master if necessary.
    async fn more(&mut self) -> Result<(), Error> {
        let Some(connection) = self.connection.as_mut() else {
            return self.reach().await;
        };
        match timeout(READ_TIMEOUT, connection.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                for message in self
                    .parser
                    .feed(&bytes)
                    .map_err(|why| self.protocol_error(why))?
                {
                    self.take(message)?;
                }
            }
            // Ended, broken or silent: continue at another master.
            Ok(Ok(None)) | Ok(Err(_)) | Err(_) => self.leave(),
        }
        Ok(())
    }

    fn leave(&mut self) {
        tracing::debug!(master = %self.master, after = ?self.after, "the event stream was interrupted, resuming at another master");
        self.connection = None;
        self.parser = SseParser::default();
        self.master = self.client.inner.masters.after(&self.master);
    }

    fn take(&mut self, message: Message) -> Result<(), Error> {
        if message.name == event::GONE {
            self.connection = None;
            return Err(match serde_json::from_str::<Problem>(&message.data) {
                Ok(problem) => Error::Api(Box::new(problem)),
                Err(error) => {
                    self.protocol_error(format!("{error}: {}", quote(message.data.as_bytes())))
                }
            });
        }
        if !message.data.is_empty() {
            let event = serde_json::from_str(&message.data).map_err(|error| {
                self.protocol_error(format!("{error}: {}", quote(message.data.as_bytes())))
            })?;
            self.ready.push_back(event);
        }
        if let Some(id) = message.id {
            self.after = Some(id);
        }
        Ok(())
    }

    /// Tries the masters in turn until one begins the stream.
    async fn reach(&mut self) -> Result<(), Error> {
        let client = self.client.clone();
        let options = &client.inner.options;
        let policy = StreamPolicy {
            deadline: options.deadline,
            // A stream that was established before is worth the whole deadline.
            unreachable_deadline: match self.after {
                Some(_) => options.deadline,
                None => options.unreachable_deadline,
            },
            open_timeout: OPEN_TIMEOUT,
            round_delay: ROUND_DELAY_MIN,
            round_delay_max: ROUND_DELAY_MAX,
        };
        let first = self.master.clone();
        let (query, after) = (&self.query, self.after.as_deref());
        let request = |master: &Url| request(&client, query, after, master);
        // A cancelled call continues here at the next one.
        let note_next = |master: &Url| self.master = master.clone();
        let (_, connection) = client
            .open_stream(first, policy, request, note_next)
            .await?;
        self.connection = Some(connection);
        Ok(())
    }

    fn protocol_error(&self, message: String) -> Error {
        Error::Protocol {
            master: self.master.clone(),
            message,
        }
    }
}

fn request(
    client: &Client,
    query: &EventsQuery,
    after: Option<&str>,
    master: &Url,
) -> Result<reqwest::RequestBuilder, Error> {
    let mut url = Call::get(&["v1", "events"]).url(master)?;
    let filters = [
        ("queue", &query.queue),
        ("job", &query.job),
        ("task", &query.task),
        ("state", &query.state),
        ("type", &query.types),
    ];
    for (name, words) in filters {
        if let Some(words) = words {
            url.query_pairs_mut().append_pair(name, words);
        }
    }
    let mut request = client.inner.http.get(url);
    request = request.header(ACCEPT, event::CONTENT_TYPE);
    if let Some(after) = after {
        request = request.header(event::LAST_EVENT_ID, after);
    }
    Ok(request)
}

/// One message of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    id: Option<String>,
    name: String,
    data: String,
}

/// Assembles messages from pieces of the stream, by the standard of server-sent events.
#[derive(Debug, Default)]
struct SseParser {
    line: Vec<u8>,
    message: Message,
}

impl SseParser {
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>, String> {
        let mut whole = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() + self.message.data.len() > MESSAGE_BYTES_MAX {
                return Err(format!(
                    "a message is longer than {MESSAGE_BYTES_MAX} bytes"
                ));
            }
            if self.line.last() != Some(&b'\n') {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                whole.push(std::mem::take(&mut self.message));
            } else {
                self.message.field(line);
            }
        }
        Ok(whole)
    }
}

impl Message {
    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments, and fields of later versions.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MESSAGE_BYTES_MAX, Message, SseParser};

    #[test]
    fn messages_are_the_same_however_they_are_cut() {
        let text = b"retry: 1000\nid: 4\n\n: a comment\r\nid: 5.0\r\nevent: x\r\ndata: {\"a\":1}\r\n\r\ndata:1\ndata:2\n\nid: 6";
        let mut at_once = SseParser::default();
        let expected = at_once.feed(text).expect("short");
        assert_eq!(
            expected[1],
            Message {
                id: Some("5.0".into()),
                name: "x".into(),
                data: "{\"a\":1}".into()
            }
        );
        assert_eq!(expected[0].id.as_deref(), Some("4"));
        assert_eq!(expected[2].data, "1\n2");
        assert_eq!(expected.len(), 3, "the last is not whole yet");
        for size in 1..text.len() {
            let mut reader = SseParser::default();
            let cut: Vec<Message> = text
                .chunks(size)
                .flat_map(|piece| reader.feed(piece).expect("short"))
                .collect();
            assert_eq!(cut, expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let mut reader = SseParser::default();
        let endless = vec![b'x'; MESSAGE_BYTES_MAX / 2];
        assert!(reader.feed(&endless).is_ok());
        assert!(reader.feed(&endless).is_ok());
        assert!(reader.feed(b"x").is_err());
    }
}

//! HTTP/1.1 client of the simulated actors: one request per connection.

use serde_json::Value;

use crate::actors::Sim;
use crate::machine::PORT;
use crate::network::Endpoint;
use crate::process::Ns;
use crate::world::Host;

/// Outcome of a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The complete answer arrived.
    Received(Response),
    /// The request never reached a process: nothing was done.
    NotSent,
    /// The request may have taken effect, or may do so later.
    Unknown,
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `triarch-index`.
    pub fn index(&self) -> Option<u64> {
        self.header("triarch-index")?.parse().ok()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A request to one master.
pub struct Request<'a> {
    pub from: Host,
    pub to: Host,
    pub method: &'static str,
    pub path: &'a str,
    pub request_id: Option<&'a str>,
    pub body: Option<&'a Value>,
    pub timeout: Ns,
}

/// Sends the request and waits for its outcome.
pub async fn send(sim: &Sim, request: Request<'_>) -> Answer {
    let until = sim.now() + request.timeout;
    let number = {
        let mut world = sim.world();
        world.client_connections += 1;
        // Connection numbers of machines begin with the machine's own number, which is never this high.
        let number = 0xC11E_0000_0000_0000 | world.client_connections;
        let actor = world.current;
        let (now, port) = (
            world.now,
            (world.client_connections % 50_000) as u16 + 10_000,
        );
        world.endpoints.insert(
            number,
            Endpoint {
                actor,
                ..Endpoint::default()
            },
        );
        world.connect(number, request.from, request.to, PORT, port, now);
        number
    };
    let wait_for = |so: fn(&Endpoint) -> bool| {
        let sim = sim.clone();
        move || sim.world().endpoints.get(&number).is_none_or(so)
    };
    let connected = sim
        .until(until, wait_for(|end| end.connected || end.failed.is_some()))
        .await;
    let failed = |sim: &Sim| {
        sim.world()
            .endpoints
            .get(&number)
            .is_none_or(|end| end.failed.is_some())
    };
    if !connected || failed(sim) {
        finish(sim, number);
        return Answer::NotSent;
    }
    write(sim, number, &request);
    sim.until(
        until,
        wait_for(|end| end.failed.is_some() || complete(end).is_some()),
    )
    .await;
    let answer = sim.world().endpoints.get(&number).and_then(complete);
    finish(sim, number);
    answer.map_or(Answer::Unknown, Answer::Received)
}

fn write(sim: &Sim, number: u64, request: &Request<'_>) {
    let body = request.body.map(Value::to_string).unwrap_or_default();
    let mut text = format!(
        "{} {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n",
        request.method, request.path
    );
    if let Some(id) = request.request_id {
        text.push_str(&format!("triarch-request-id: {id}\r\n"));
    }
    if request.body.is_some() {
        text.push_str("content-type: application/json\r\n");
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    let mut world = sim.world();
    let now = world.now;
    if let Some(side) = world.side_of(number, request.from) {
        world.send(
            number,
            side,
            now,
            crate::network::Packet::Data(text.into_bytes()),
        );
    }
}

fn finish(sim: &Sim, number: u64) {
    let mut world = sim.world();
    let now = world.now;
    if world.endpoints.remove(&number).is_some() {
        world.close(number, crate::network::Side::Caller, now);
    }
}

/// Returns the answer, once it is complete.
fn complete(end: &Endpoint) -> Option<Response> {
    let text = &end.received;
    let head_end = text.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&text[..head_end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().to_string()))
        .collect();
    let mut response = Response {
        status,
        headers,
        body: Vec::new(),
    };
    let rest = &text[head_end + 4..];
    if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().ok()?;
        response.body = rest.get(..length)?.to_vec();
        return Some(response);
    }
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = unchunk(rest)?;
        return Some(response);
    }
    end.ended.then(|| {
        response.body = rest.to_vec();
        response
    })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = rest.windows(2).position(|two| two == b"\r\n")?;
        let length =
            usize::from_str_radix(std::str::from_utf8(&rest[..line_end]).ok()?.trim(), 16).ok()?;
        let chunk = rest.get(line_end + 2..line_end + 2 + length)?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunk);
        rest = rest.get(line_end + 4 + length..)?;
    }
}

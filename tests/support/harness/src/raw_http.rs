//! HTTP/1.1 by hand: sends exactly the given bytes as the request target, which other clients normalize.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Maximum time for one answer.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A request, byte for byte.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawRequest<'a> {
    /// Method.
    pub method: &'a str,
    /// Target: path and query, sent as they are.
    pub target: &'a str,
    /// Headers in addition to `host`, `connection` and `content-length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body.
    pub body: &'a str,
    /// Whether the sending side is shut down behind the request.
    pub half_close: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawReply {
    /// Status, or 0 if the connection was closed without an answer.
    pub status: u16,
    /// Headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub text: String,
}

impl RawReply {
    /// Returns the `code` of a problem; empty for anything else.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Self {
            status: status.and_then(|word| word.parse().ok()).unwrap_or(0),
            headers: headers.collect(),
            text: body.to_owned(),
        }
    }
}

/// Sends a request on a connection of its own, and reads until the other end closes it.
pub async fn send(addr: &str, request: RawRequest<'_>) -> RawReply {
    exchange(TcpStream::connect(addr), addr, request).await
}

/// Sends a request like [`send`], from this IPv4 address of this machine.
pub async fn send_from(from: &str, addr: &str, request: RawRequest<'_>) -> RawReply {
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(parsed(from), 0))?;
        socket.connect(parsed(addr)).await
    };
    exchange(connect, addr, request).await
}

fn parsed<T: FromStr>(address: &str) -> T {
    let parsed = address.parse().ok();
    parsed.unwrap_or_else(|| panic!("{address} is not an address"))
}

async fn exchange(
    connect: impl Future<Output = std::io::Result<TcpStream>>,
    addr: &str,
    request: RawRequest<'_>,
) -> RawReply {
    let exchange = async {
        let mut stream = connect.await?;
        let headers: String = request
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let head = format!(
            "{} {} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            request.method,
            request.target,
            request.body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(request.body.as_bytes()).await?;
        if request.half_close {
            stream.shutdown().await?;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(answer)) => RawReply::parse(&answer),
        Ok(Err(error)) => panic!("{addr}, {request:?}: {error}"),
        Err(_) => panic!("{addr}, {request:?}: no answer within {TIMEOUT:?}"),
    }
}

//! One connection of a hostile client.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Effects;

/// Maximum time for a master to accept a connection, and to take bytes.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a connection that was refused, so that a client is no loop without any wait.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// Number of addresses of hostile clients.
const ADDRESSES: u8 = 8;
/// Receive buffer of a client that reads nothing, in bytes.
const SMALL_BUFFER_BYTES: u32 = 4_096;

/// An open connection.
pub struct Connection<'a> {
    stream: TcpStream,
    effects: &'a Effects,
}

impl<'a> Connection<'a> {
    /// Connects from a loopback address of hostile clients, which follows from `number`: bounds per client address do not
    /// concern the ordinary load. `None` if the master takes no connection.
    pub async fn open(addr: &str, effects: &'a Effects, number: u8) -> Option<Connection<'a>> {
        let connected = async {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
            let from = Ipv4Addr::new(127, 66, 6, 1 + number % ADDRESSES);
            socket.bind((from, 0).into())?;
            let addr = addr.parse().map_err(std::io::Error::other)?;
            socket.connect(addr).await
        };
        match timeout(STEP_TIMEOUT, connected).await {
            Ok(Ok(stream)) => {
                effects.opened.fetch_add(1, Ordering::Relaxed);
                Some(Connection { stream, effects })
            }
            Ok(Err(_)) | Err(_) => {
                effects.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(REFUSED_PAUSE).await;
                None
            }
        }
    }

    /// Sends bytes. Returns whether the master took them all.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(STEP_TIMEOUT, self.stream.write_all(bytes)).await;
        let taken = matches!(sent, Ok(Ok(())));
        if !taken {
            self.effects.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
        taken
    }

    /// Ends the sending side.
    pub async fn half_close(&mut self) {
        let _ = timeout(STEP_TIMEOUT, self.stream.shutdown()).await;
    }

    /// Reads nothing for this time.
    pub async fn hold(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits for the answer, or for the end of the connection, for at most this time, and counts it.
    pub async fn wait_answer(&mut self, time: Duration) {
        let mut head = [0; 12];
        match timeout(time, self.stream.read_exact(&mut head)).await {
            Ok(Ok(_)) if head.starts_with(b"HTTP/1.1 2") => {
                self.effects.served.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {
                self.effects.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }
}

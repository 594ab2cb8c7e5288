//! Listen address of a node: resolved and bound, with a wait for names and addresses that a booting machine lacks.
//!
//! Names may not resolve before the network is up, and an address may be assigned later. A node that ended then would
//! stay down if no supervisor restarts it. So it waits for both, and logs a line every few seconds. Any other failure
//! is an error: a port that another process uses, or a port for which the permission is missing.

use std::ffi::CString;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};

/// Length of the kernel's accept queue. Thousands of workers connect at once after a failover. A worker that finds the
/// queue full retries only after a second or more.
const LISTEN_BACKLOG: u32 = 16_384;
/// Interval between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Interval between two log messages of a waiting node.
const LOG_INTERVAL: Duration = Duration::from_secs(3);

/// Reason why an address could not be bound.
#[derive(Debug)]
enum BindError {
    /// The address may be usable later. The text names the missing part.
    NotYet(String),
    /// The failure will not end by itself.
    Final(io::Error),
}

/// Binds a listener to the first usable address behind `HOST:PORT`. Waits for a name that does not resolve, and for an
/// address that this machine does not have.
///
/// # Errors
///
/// Fails if the address cannot be used for another reason.
pub async fn bind(listen: &str) -> io::Result<TcpListener> {
    let begun = Instant::now();
    let mut logged: Option<Instant> = None;
    loop {
        let missing = match try_bind(listen).await {
            Ok(listener) => {
                if logged.is_some() {
                    tracing::info!(
                        listen,
                        waited_ms = begun.elapsed().as_millis(),
                        "the address to listen on is there now"
                    );
                }
                return Ok(listener);
            }
            Err(BindError::Final(error)) => return Err(error),
            Err(BindError::NotYet(missing)) => missing,
        };
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(
                listen,
                waited_ms = begun.elapsed().as_millis(),
                "waiting for the address to listen on: {missing}; until then this node serves nothing, not even /healthz"
            );
            logged = Some(Instant::now());
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn try_bind(listen: &str) -> Result<TcpListener, BindError> {
    let addresses = resolve(listen).await?;
    let mut missing = None;
    let mut failed = None;
    for address in addresses {
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                missing = Some(address.ip());
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(match (failed, missing) {
        (Some(error), _) => BindError::Final(error),
        (None, Some(ip)) => BindError::NotYet(format!(
            "no interface of this machine has the address {ip} (if it never will, correct --listen)"
        )),
        (None, None) => BindError::NotYet("its name has no address".to_owned()),
    })
}

async fn resolve(listen: &str) -> Result<Vec<SocketAddr>, BindError> {
    if let Some(link_local) = with_zone(listen)? {
        return Ok(vec![link_local]);
    }
    match tokio::net::lookup_host(listen).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(BindError::NotYet(format!(
            "its name does not resolve ({error})"
        ))),
    }
}

/// Returns the address `[fe80::1%eth0]:7101`, whose zone is an interface by name or number. `None` if there is no zone.
fn with_zone(listen: &str) -> Result<Option<SocketAddr>, BindError> {
    let parts = listen.rsplit_once(':').and_then(|(host, port)| {
        let (ip, zone) = host.strip_prefix('[')?.strip_suffix(']')?.split_once('%')?;
        Some((
            ip.parse::<Ipv6Addr>().ok()?,
            zone,
            port.parse::<u16>().ok()?,
        ))
    });
    let Some((ip, zone, port)) = parts else {
        return Ok(None);
    };
    let missing = || BindError::NotYet(format!("this machine has no interface {zone}"));
    let index = match zone.parse::<u32>() {
        Ok(index) => index,
        Err(_) => {
            let name = CString::new(zone).map_err(|_| missing())?;
            // SAFETY: the name ends in a nul byte and is only read.
            match unsafe { libc::if_nametoindex(name.as_ptr()) } {
                0 => return Err(missing()),
                index => index,
            }
        }
    };
    Ok(Some(SocketAddrV6::new(ip, port, 0, index).into()))
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A node that restarts need not wait for connections of its predecessor.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_may_come_is_distinguished_from_one_that_is_wrong() {
        for (listen, missing) in [
            ("node1.triarch.invalid:7101", "does not resolve"),
            ("192.0.2.77:7101", "no interface of this machine has"),
            ("[2001:db8::77]:7101", "no interface of this machine has"),
            ("[fe80::77%nosuchif]:7101", "no interface nosuchif"),
        ] {
            match try_bind(listen).await {
                Err(BindError::NotYet(said)) => assert!(said.contains(missing), "{listen}: {said}"),
                other => panic!("{listen}: {other:?}"),
            }
        }
        let taken = try_bind("127.0.0.1:0").await.expect("any port");
        let taken = taken.local_addr().expect("it listens").to_string();
        match try_bind(&taken).await {
            Err(BindError::Final(error)) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
            other => panic!("{other:?}"),
        }
    }
}

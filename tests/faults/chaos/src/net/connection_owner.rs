//! Identification of the process that opened a connection, so that a proxy knows which master sends a request.
//!
//! The kernel gives the inode of the socket (by netlink, as for `ss`), and `/proc` shows which child process holds it.
//! So the proxies need not understand the messages between masters.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use anyhow::Context;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = NLMSG_HEADER_BYTES + 56;
/// Size of `struct inet_diag_msg`, which follows the message header.
const INODE_AT: usize = NLMSG_HEADER_BYTES + 68;

/// The sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionOwner {
    /// A master of the cluster.
    Master(u64),
    /// A worker or a client of the cluster.
    Outsider,
    /// The connection is closed already.
    Gone,
}

/// The known processes of the masters.
#[derive(Debug, Default)]
pub struct ConnectionOwners {
    masters: Mutex<HashMap<u32, u64>>,
}

impl ConnectionOwners {
    /// Returns the owner of the connection from `peer` to `own`.
    pub fn find(&self, peer: SocketAddr, own: SocketAddr) -> anyhow::Result<ConnectionOwner> {
        let Some(inode) = inode(peer, own)? else {
            return Ok(ConnectionOwner::Gone);
        };
        let wanted = format!("socket:[{inode}]");
        let known = self.masters.lock().expect("nobody panics with it").clone();
        if let Some(node) = owner(&known, &wanted) {
            return Ok(ConnectionOwner::Master(node));
        }
        let present = masters()?;
        let found = owner(&present, &wanted);
        *self.masters.lock().expect("nobody panics with it") = present;
        Ok(found.map_or(ConnectionOwner::Outsider, ConnectionOwner::Master))
    }
}

fn owner(masters: &HashMap<u32, u64>, socket: &str) -> Option<u64> {
    masters.iter().find_map(|(pid, node)| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut links = open
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links
            .any(|link| link.to_str() == Some(socket))
            .then_some(*node)
    })
}

/// Returns the masters among the children of this process, by pid.
fn masters() -> anyhow::Result<HashMap<u32, u64>> {
    let mut found = HashMap::new();
    for thread in std::fs::read_dir("/proc/self/task")?.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for pid in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line
                .split(|byte| *byte == 0)
                .skip_while(|word| *word != b"server");
            let id = words.by_ref().skip_while(|word| *word != b"--id").nth(1);
            let id = id.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
            if let Some(id) = id {
                found.insert(pid, id);
            }
        }
    }
    Ok(found)
}

/// Returns the inode of the TCP socket that is bound to `local` and connected to `remote`, or `None` without such a
/// socket.
fn inode(local: SocketAddr, remote: SocketAddr) -> anyhow::Result<Option<u32>> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            libc::NETLINK_SOCK_DIAG,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("the kernel cannot be asked for sockets");
    }
    // SAFETY: the descriptor was just opened, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let request = request(local, remote);
    // SAFETY: the buffer has the length that is passed.
    let sent = unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error()).context("the kernel cannot be asked for sockets");
    }
    let mut answer = [0_u8; 1_024];
    // SAFETY: the buffer has the length that is passed.
    let got = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error()).context("the kernel does not answer for sockets");
    }
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let word = |at: usize| u32::from_ne_bytes(answer[at..at + 4].try_into().expect("four bytes"));
    if kind != SOCK_DIAG_BY_FAMILY || (got.cast_unsigned()) < INODE_AT + 4 {
        return Ok(None);
    }
    // A socket that no process holds has no inode.
    Ok(Some(word(INODE_AT)).filter(|inode| *inode != 0))
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(local: SocketAddr, remote: SocketAddr) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    put(&(REQUEST_BYTES as u32).to_ne_bytes());
    put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    put(&[0; 8]);
    put(&[libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    put(&u32::MAX.to_ne_bytes());
    put(&local.port().to_be_bytes());
    put(&remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        let mut words = [0; 16];
        if let IpAddr::V4(address) = address {
            words[..4].copy_from_slice(&address.octets());
        }
        put(&words);
    }
    put(&[0; 4]);
    // No cookie.
    put(&[0xff; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_connected_socket_is_found_by_its_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let client = TcpStream::connect(own).unwrap();
        let peer = client.local_addr().unwrap();
        let link = std::fs::metadata(format!("/proc/self/fd/{}", client.as_raw_fd())).unwrap();
        assert_eq!(inode(peer, own).unwrap().map(u64::from), Some(link.ino()));
        // The test process is not a master.
        assert_eq!(
            ConnectionOwners::default().find(peer, own).unwrap(),
            ConnectionOwner::Outsider
        );
        drop(client);
        drop(listener);
        assert_eq!(inode(own, own).unwrap(), None);
    }
}

//! Bounds on connections, derived from the limit of file descriptors.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// File descriptors reserved for other nodes, the log and snapshots.
const RESERVED_FILE_DESCRIPTORS: usize = 512;
/// Maximum number of connections that are not classified yet or wait to be handed off.
const UNCLASSIFIED_CONNECTIONS_MAX: usize = 4_096;
/// Maximum number of requests that are forwarded at once.
const FORWARDS_MAX: usize = 20_000;
/// Maximum number of open connections of other nodes.
const PEER_CONNECTIONS_MAX: usize = 1_000;

/// Bounds on connections, within the limit of file descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionBounds {
    /// Maximum connections of clients and workers.
    pub clients: usize,
    /// Maximum connections of other nodes.
    pub peers: usize,
    /// Maximum connections that are not classified yet.
    pub unclassified: usize,
    /// Maximum requests that are forwarded to the leader at once, each on a connection of its own.
    pub forwards: usize,
}

impl ConnectionBounds {
    /// Derives the bounds from the wanted number of client connections and the limit of file descriptors.
    pub fn within(wanted: usize, files: usize) -> Self {
        let reserved = RESERVED_FILE_DESCRIPTORS.min(files / 2);
        let unclassified = (files / 8).clamp(1, UNCLASSIFIED_CONNECTIONS_MAX);
        let forwards = (files / 8).clamp(1, FORWARDS_MAX);
        let left = files.saturating_sub(reserved + unclassified + forwards);
        Self {
            clients: wanted.min(left.max(1)),
            peers: PEER_CONNECTIONS_MAX.min((reserved / 2).max(1)),
            unclassified,
            forwards,
        }
    }
}

/// Raises the limit of file descriptors as far as allowed, and returns the bounds on connections within it.
pub fn detect(wanted: usize) -> ConnectionBounds {
    let files = match raise_file_limit() {
        Ok(files) => usize::try_from(files).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files is not known; the bound on connections is --max-connections");
            usize::MAX
        }
    };
    let bounds = ConnectionBounds::within(wanted, files);
    if bounds.clients < wanted {
        tracing::warn!(
            wanted,
            possible = bounds.clients,
            "this process may open only {files} files (ulimit -n), so it accepts fewer connections; raise the limit"
        );
    }
    bounds
}

fn raise_file_limit() -> nix::Result<u64> {
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if now < most && setrlimit(Resource::RLIMIT_NOFILE, most, most).is_ok() {
        return Ok(most);
    }
    Ok(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_on_connections_leave_descriptors_for_the_log_and_other_nodes() {
        let plenty = ConnectionBounds::within(20_000, 1 << 20);
        assert_eq!((plenty.clients, plenty.peers), (20_000, 256));
        for files in [64, 256, 1_024, 4_096, 65_536] {
            let bounds = ConnectionBounds::within(20_000, files);
            let most = bounds.clients + bounds.forwards + bounds.peers + bounds.unclassified;
            assert!(most + files.min(512) / 8 <= files, "{files}: {bounds:?}");
            assert!(
                bounds.clients >= files / 5 || bounds.clients == 20_000,
                "{files}: {bounds:?}"
            );
        }
    }
}

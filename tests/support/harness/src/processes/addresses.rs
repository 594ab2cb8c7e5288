//! Network addresses for the nodes of test clusters: loopback addresses and ports that no other process uses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// First port of the masters. It is below the ports that the system gives to outgoing connections.
pub const PORT_BASE: u16 = 7_100;

/// Address of a master that does not run on the cluster's loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// Address on which the master listens, and at which tests and clients reach it.
    pub listen: SocketAddr,
    /// Address at which the other masters and redirected workers reach it. It differs if a proxy is in between.
    pub advertised: SocketAddr,
    /// Network namespace of the master, by its name in `ip netns`.
    pub namespace: Option<PathBuf>,
}

/// Returns a loopback address that no other cluster uses, so that no two clusters, of any number of test processes,
/// share a port. Linux answers on all of 127.0.0.0/8.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let seed = std::process::id().wrapping_mul(251).wrapping_add(nth);
        let Some(address) = address(seed) else {
            continue;
        };
        let free = |id| TcpListener::bind(SocketAddr::new(address, PORT_BASE + id)).is_ok();
        if (1..=5).all(free) {
            return address;
        }
    }
}

/// Every number stands for at most one address, and no address has two numbers. Otherwise two clusters that start at
/// the same time could find the same address free.
fn address(seed: u32) -> Option<IpAddr> {
    let [_, a, b, c] = seed.to_be_bytes();
    // 127.0.*.* is left to programs that people start manually.
    (a != 0 && !matches!(c, 0 | 255)).then(|| IpAddr::V4(Ipv4Addr::new(127, a, b, c)))
}

/// Returns a base such that `base + 1 ..= base + count` are free on 127.0.0.1, for programs that listen only there.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1_000 {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id().wrapping_mul(37).wrapping_add(nth * 16);
        let base = 10_000 + (spread % 20_000) as u16;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (1..=count).all(|nth| free(base + nth)) {
            return base;
        }
    }
    panic!("no {count} free ports in a row on 127.0.0.1");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_in_a_row_have_addresses_of_their_own() {
        let numbers = 0x0001_0000..0x0001_1000;
        let addresses: Vec<IpAddr> = numbers.filter_map(address).collect();
        let distinct: BTreeSet<&IpAddr> = addresses.iter().collect();
        assert_eq!((addresses.len(), distinct.len()), (16 * 254, 16 * 254));
        assert_eq!(address(0xffff), None);
    }
}

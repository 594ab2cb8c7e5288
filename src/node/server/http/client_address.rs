//! Address of a client: the unit of all bounds on connections, permits and memory per client.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{Extensions, HeaderMap};

use crate::server::protocol::headers::{CLIENT, FORWARDED_BY};

/// Number of leading bits of an IPv6 address that identify a client. One host may use all addresses of such a network.
const IPV6_PREFIX_BITS: u32 = 64;

/// Address of a client: an IPv4 address, or a network of IPv6 addresses.
///
/// Clients behind one proxy or address translator count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// Returns the address of the client at the other end of a connection.
    pub fn of_peer(peer: SocketAddr) -> Self {
        Self::of_ip(peer.ip())
    }

    fn of_ip(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let mask = u128::MAX << (128 - IPV6_PREFIX_BITS);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        })
    }

    /// Returns the address of the client that sent a request. For a forwarded request, the forwarding node names it.
    pub fn of_request(extensions: &Extensions, headers: &HeaderMap) -> Self {
        let forwarded = headers
            .get(CLIENT)
            .filter(|_| headers.contains_key(FORWARDED_BY))
            .and_then(|text| text.to_str().ok()?.parse().ok())
            .map(Self::of_ip);
        forwarded
            .or_else(|| extensions.get::<ClientAddress>().copied())
            .unwrap_or(Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))
    }
}

impl std::fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(text: &str) -> ClientAddress {
        ClientAddress::of_ip(text.parse().expect("an address"))
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }

    #[test]
    fn only_a_forwarded_request_names_its_client() {
        let mut extensions = Extensions::new();
        extensions.insert(of("10.0.0.1"));
        let mut headers = HeaderMap::new();
        headers.insert(CLIENT, HeaderValue::from_static("10.0.0.9"));
        let found = ClientAddress::of_request(&extensions, &headers);
        assert_eq!(found, of("10.0.0.1"));
        headers.insert(FORWARDED_BY, HeaderValue::from_static("2"));
        let found = ClientAddress::of_request(&extensions, &headers);
        assert_eq!(found, of("10.0.0.9"));
    }
}

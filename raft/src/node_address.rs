//! Address of a node, `HOST:PORT` and nothing else: what a command line, a request or a stored membership may name.
//!
//! A node posts messages to the addresses of other nodes. A text with a path, a query or user information would make it
//! post to another place than the address seems to name.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Maximum length of a host name, in bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// A host and a port. The host is a name, an IPv4 address, or an IPv6 address in brackets; the port is not 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    host: String,
    port: u16,
}

/// Reason why a text is not a [`NodeAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not HOST:PORT, such as 10.0.0.4:7101, [::1]:7101 or a.example:7101: {why}")]
pub struct NodeAddressError {
    text: String,
    why: &'static str,
}

impl NodeAddress {
    /// Returns the address behind the URL of a node, `http://HOST:PORT`, with or without a slash at the end.
    ///
    /// # Errors
    ///
    /// Fails if the URL has any other part.
    pub fn from_url(text: &str) -> Result<Self, NodeAddressError> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        rest.strip_suffix('/').unwrap_or(rest).parse()
    }
}

impl FromStr for NodeAddress {
    type Err = NodeAddressError;

    fn from_str(text: &str) -> Result<Self, NodeAddressError> {
        let bad = |why| NodeAddressError {
            text: text.chars().take(HOST_BYTES_MAX).collect(),
            why,
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        let port = match port.bytes().all(|b| b.is_ascii_digit()) {
            true => port.parse::<u16>().ok().filter(|port| *port > 0),
            false => None,
        };
        let port = port.ok_or_else(|| bad("the port is not a number from 1 to 65535"))?;
        check_host(host).map_err(bad)?;
        Ok(NodeAddress {
            host: host.to_owned(),
            port,
        })
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if let Some(inside) = host.strip_prefix('[') {
        let address = inside.strip_suffix(']').ok_or("a bracket is missing")?;
        let parsed: Result<Ipv6Addr, _> = address.parse();
        return match parsed {
            Ok(_) => Ok(()),
            Err(_) => Err("there is no IPv6 address in the brackets"),
        };
    }
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.len() > HOST_BYTES_MAX {
        return Err("the host name is too long");
    }
    if host.contains(':') {
        return Err("an IPv6 address belongs in brackets");
    }
    let of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if !host.bytes().all(of_name) {
        return Err("a host has letters, digits, hyphens, underscores and dots only");
    }
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    if labels
        .clone()
        .any(|label| label.is_empty() || label.len() > 63)
    {
        return Err("a part of the host name is empty or too long");
    }
    // URL parsers take `0x7f.1` and `127.1` for addresses of another host than the text shows.
    let numeric = labels.next_back().is_some_and(|last| {
        last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X")
    });
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err("it is neither a name nor an IPv4 address of four numbers");
    }
    Ok(())
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_an_address_and_print_as_they_were_given() {
        for text in [
            "127.0.0.1:7101",
            "[::1]:7101",
            "[fd00::12:3]:65535",
            "localhost:1",
            "triarch-0.triarch-masters:7100",
            "a_b.example.:7100",
            "node1:7101",
        ] {
            let parsed: NodeAddress = text.parse().expect(text);
            assert_eq!(parsed.to_string(), text);
        }
        for url in ["http://a:1", "http://a:1/", "a:1"] {
            assert_eq!(NodeAddress::from_url(url).expect(url).to_string(), "a:1");
        }
    }

    #[test]
    fn every_other_text_is_refused() {
        for text in [
            "",
            "7101",
            ":7101",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a: 80",
            "a:80 ",
            " a:80",
            "a b:80",
            "a\n:80",
            "a\0:80",
            "a:80\r\n",
            "a:80/",
            "a:80/path",
            "a/..:80",
            "a\\..:80",
            "a?x=1:80",
            "a#:80",
            "127.0.0.1:27299/internal/admin?x=1#",
            "127.0.0.1:27299/v1?:80",
            "user@a:80",
            "user:password@a:80",
            "::1:80",
            "[::1:80",
            "[a]:80",
            "[::1%eth0]:80",
            "http://a:80",
            "a..b:80",
            ".a:80",
            "127.1:80",
            "0x7f.0.0.1:80",
            "1.2.3.0x4:80",
            "2130706433:80",
            "%31:80",
            "ä:80",
            "a,b:80",
        ] {
            assert!(text.parse::<NodeAddress>().is_err(), "{text:?}");
        }
        for url in [
            "https://a:1",
            "http://a",
            "http://a:1/x",
            "http://u@a:1",
            "http://a:1//",
        ] {
            assert!(NodeAddress::from_url(url).is_err(), "{url:?}");
        }
        let error = "a\nb".parse::<NodeAddress>().unwrap_err().to_string();
        assert!(error.contains("\\n") && !error.contains('\n'), "{error}");
    }
}

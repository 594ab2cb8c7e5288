//! Value parsers for addresses and host names. An address that can never work is refused here. An address that may work
//! later, such as a name that does not resolve yet, is accepted.

use std::net::Ipv6Addr;

use triarch_raft::NodeAddress;

/// Maximum length of a host name in bytes.
const NAME_BYTES_MAX: usize = 253;

/// Parses `host:port`. See [`NodeAddress`].
pub fn host_port(text: &str) -> Result<String, String> {
    match text.parse::<NodeAddress>() {
        Ok(address) => Ok(address.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses an address to listen on. A link-local one has a zone, as in `[fe80::1%eth0]:7101`.
pub fn listen_address(text: &str) -> Result<String, String> {
    let zoned = text
        .split_once('%')
        .and_then(|(address, rest)| Some((address, rest.split_once(']')?)));
    let Some((address, (zone, port))) = zoned else {
        return host_port(text);
    };
    if !is_name(zone) {
        return Err(format!("{text:?} has no network interface after its %"));
    }
    host_port(&format!("{address}]{port}"))?;
    Ok(text.to_owned())
}

/// Parses the URL of a node, `http://host:port`, into its address.
pub fn node_url(text: &str) -> Result<String, String> {
    match NodeAddress::from_url(text) {
        Ok(address) => Ok(address.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses a host name without a port.
pub fn host_name(text: &str) -> Result<String, String> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "'{text}' is not a host name, such as triarch.example"
        )),
    }
}

/// Refuses a link-local IPv6 address without an interface, because nothing can listen on it.
pub fn check_listen(listen: &str) -> Result<(), String> {
    let (host, port) = listen.rsplit_once(':').unwrap_or((listen, ""));
    match bracketed(host) {
        Some((ip, None))
            if ip
                .parse::<Ipv6Addr>()
                .is_ok_and(|ip| ip.is_unicast_link_local()) =>
        {
            Err(format!(
                "the link-local address {listen} needs an interface, such as [{ip}%eth0]:{port}"
            ))
        }
        Some(_) | None => Ok(()),
    }
}

/// Returns the address in brackets, and its zone.
fn bracketed(host: &str) -> Option<(&str, Option<&str>)> {
    let inner = host.strip_prefix('[')?.strip_suffix(']')?;
    Some(match inner.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone)),
        None => (inner, None),
    })
}

fn is_name(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !host.is_empty() && host.len() <= NAME_BYTES_MAX && host.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_can_never_work_is_refused_and_one_that_may_is_not() {
        for good in [
            "127.0.0.1:7101",
            "node1.triarch.invalid:7101",
            "a_b-c:1",
            "[::1]:7101",
            "192.0.2.1:7101",
        ] {
            assert_eq!(host_port(good), Ok(good.to_owned()));
        }
        for wrong in [
            "a",
            "a:",
            ":1",
            "a:0",
            "a:70000",
            "a:x",
            "a b:1",
            "a/b:1",
            "ä:1",
            "256.1.1.1:1",
            "[::1:1",
            "[::g]:1",
            "[fe80::1%]:1",
            "::1:1",
            "[127.0.0.1]:1",
        ] {
            let said = host_port(wrong).expect_err(wrong);
            assert!(said.contains("HOST:PORT"), "{wrong}: {said}");
        }
    }

    #[test]
    fn a_link_local_address_to_listen_on_needs_an_interface() {
        let zoned = "[fe80::1%eth0]:7101";
        assert_eq!(listen_address(zoned), Ok(zoned.to_owned()));
        for wrong in ["[fe80::1%]:7101", "[fe80::1%eth0]", "[fe80::g%eth0]:7101"] {
            listen_address(wrong).expect_err(wrong);
        }
        assert!(check_listen("[fe80::1%eth0]:7101").is_ok());
        assert!(check_listen("[2001:db8::1]:7101").is_ok());
        let said = check_listen("[fe80::1]:7101").expect_err("no interface");
        assert!(said.contains("[fe80::1%eth0]:7101"), "{said}");
    }
}

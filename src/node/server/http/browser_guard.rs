//! Browser guard: refuses requests that a web page of another site made a browser send. Protects from cross-site
//! request forgery and DNS rebinding.
//!
//! A browser on a machine that reaches a node is a way around every network boundary. A page of any site may send
//! "simple" requests to any address (cross-site request forgery). A page whose name resolves to a node's address may
//! read the answers (DNS rebinding). Requests of programs carry none of the headers checked here, so `curl -d` keeps
//! working.
//!
//! # Rules
//!
//! - `Host`: an IP address, `localhost`, the host of a member, or a name that `--allowed-host` gives; else 421.
//! - `Origin`: the node's own, by `Host`; else 403. The same for `Sec-Fetch-Site`, which must be `same-origin` or
//!   `none`.
//! - A `POST` from a browser must be one that forces a preflight: a JSON body, or a `triarch-*` header; else 415.
//! - Probes (`/healthz`, `/readyz`) are accepted under any host name. Navigation to the page itself (`/`, `/ui/*`),
//!   which is static and holds no data, is never refused.
//!
//! There are no CORS headers, so no page of another site reads an answer, and every preflight fails.
//!
//! Sources: RFC 9110 section 7.2 (`Host`), RFC 6454 (`Origin`), Fetch Metadata Request Headers (W3C), the Fetch standard on
//! CORS-safelisted requests.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use parking_lot::RwLock;

use crate::server::protocol::headers::OWN_HEADER_PREFIX;
use crate::server::protocol::problem::{Code, Problem};

const SEC_FETCH_PREFIX: &str = "sec-fetch-";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// Routes that load balancers and orchestrators request under host names of their own.
pub const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Host names of a cluster: those configured at start, and those of its members.
#[derive(Debug)]
pub struct HostNames {
    configured: BTreeSet<String>,
    /// Hosts of the members, as of the last lookup of an unknown name.
    members: RwLock<BTreeSet<String>>,
}

impl HostNames {
    /// Collects the names from `--allowed-host`, and the hosts of `HOST:PORT` addresses from the other options.
    pub fn new<'a>(
        allowed: impl IntoIterator<Item = &'a str>,
        addresses: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let hosts = addresses.into_iter().filter_map(host_of);
        Self {
            configured: allowed.into_iter().map(normalized).chain(hosts).collect(),
            members: RwLock::default(),
        }
    }

    /// Returns whether `name` (normalized) is a name of the cluster. `members` returns the current members' addresses;
    /// it is called only for a name that is not known yet.
    fn contains(&self, name: &str, members: impl FnOnce() -> Vec<String>) -> bool {
        if self.configured.contains(name) || self.members.read().contains(name) {
            return true;
        }
        let now: BTreeSet<String> = members().iter().filter_map(|addr| host_of(addr)).collect();
        let found = now.contains(name);
        *self.members.write() = now;
        found
    }
}

/// Returns the normalized host of a `HOST:PORT` address.
fn host_of(address: &str) -> Option<String> {
    let authority: Authority = address.parse().ok()?;
    Some(normalized(authority.host()))
}

/// Refuses a request of a client or worker that breaks one of the rules above. `members` returns the current members'
/// addresses.
pub fn check(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    names: &HostNames,
    members: impl FnOnce() -> Vec<String>,
) -> Result<(), Problem> {
    if opens_page(method, uri.path(), headers) {
        return Ok(());
    }
    let host = host(uri, headers)?;
    if !PROBES.contains(&uri.path())
        && let Some(host) = &host
    {
        check_host(host, names, members)?;
    }
    check_origin(host.as_ref(), headers)?;
    check_fetch_site(headers)?;
    check_preflight(method, headers)
}

/// Refuses a request between nodes that a browser sent, whatever its site, because no page talks to `/raft/`.
pub fn check_peer(headers: &HeaderMap) -> Result<(), Problem> {
    if from_browser(headers) {
        return Err(forbidden(
            "a browser must not call the routes between nodes",
        ));
    }
    Ok(())
}

/// Adds headers that keep an answer from being sniffed, cached, or framed by a page of another site. A header that the
/// route has set stays.
pub fn harden(headers: &mut HeaderMap) {
    let defaults = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
    ];
    for (name, value) in defaults {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
}

/// Returns whether the request opens the page: a top-level navigation of a browser.
fn opens_page(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let page = path == "/" || path == "/ui" || path.starts_with("/ui/");
    let is = |name: &HeaderName, wanted: &str| headers.get(name).is_some_and(|v| v == wanted);
    page && (method == Method::GET || method == Method::HEAD)
        && is(&SEC_FETCH_MODE, "navigate")
        && is(&SEC_FETCH_DEST, "document")
}

fn from_browser(headers: &HeaderMap) -> bool {
    let fetched = |name: &HeaderName| name.as_str().starts_with(SEC_FETCH_PREFIX);
    headers.contains_key(header::ORIGIN) || headers.keys().any(fetched)
}

/// Returns the authority that the request is for: that of its target if absolute, else that of its one `Host` header.
fn host(uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, Problem> {
    let mut given = headers.get_all(header::HOST).iter();
    let first = given.next();
    if given.next().is_some() {
        return Err(Problem::invalid(
            "host",
            "there is more than one Host header",
        ));
    }
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.clone()));
    }
    let Some(first) = first else { return Ok(None) };
    match Authority::try_from(first.as_bytes()) {
        Ok(authority) => Ok(Some(authority)),
        Err(_) => Err(Problem::invalid(
            "host",
            "the Host header is not HOST or HOST:PORT",
        )),
    }
}

fn check_host(
    host: &Authority,
    names: &HostNames,
    members: impl FnOnce() -> Vec<String>,
) -> Result<(), Problem> {
    let name = normalized(host.host());
    let served =
        || is_address(host.host()) || name == "localhost" || names.contains(&name, members);
    if is_host_and_port(host) && served() {
        return Ok(());
    }
    Err(Problem::new(
        Code::MisdirectedRequest,
        format!(
            "no node of this cluster has the host name {:?}; use an address or a member's host, or start the nodes with \
             --allowed-host",
            host.as_str()
        ),
    ))
}

/// Returns whether the authority consists of a host and a port only. The parser also accepts a user name before the
/// host, and letters after an address in brackets.
fn is_host_and_port(authority: &Authority) -> bool {
    let Some(rest) = authority.as_str().strip_prefix(authority.host()) else {
        return false;
    };
    rest.is_empty()
        || rest
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok())
}

fn is_address(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Normalizes a host name for comparison: lower case, without the trailing dot of the root.
pub fn normalized(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn check_origin(host: Option<&Authority>, headers: &HeaderMap) -> Result<(), Problem> {
    let own = |origin: &HeaderValue| {
        let (Some(host), Ok(origin)) = (host, origin.to_str()) else {
            return false;
        };
        is_own_origin(host, origin)
    };
    if headers.get_all(header::ORIGIN).iter().all(own) {
        return Ok(());
    }
    Err(forbidden(
        "the request comes from a web page of another origin, as its Origin header says",
    ))
}

/// Returns whether `origin` is that of a page that the node at `host` served itself. TLS may have ended at a proxy
/// before the node.
fn is_own_origin(host: &Authority, origin: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);
    is_host_and_port(&authority)
        && normalized(authority.host()) == normalized(host.host())
        && port(&authority) == port(host)
}

fn check_fetch_site(headers: &HeaderMap) -> Result<(), Problem> {
    let own = |site: &HeaderValue| site == "same-origin" || site == "none";
    if headers.get_all(SEC_FETCH_SITE).iter().all(own) {
        return Ok(());
    }
    Err(forbidden(
        "the request comes from a web page of another site, as its Sec-Fetch-Site header says",
    ))
}

/// Refuses a `POST` from a browser that forces no preflight. A form or a plain `fetch` of any site can send such a
/// request. Other methods that change something force a preflight by themselves.
fn check_preflight(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let own_header = |name: &HeaderName| name.as_str().starts_with(OWN_HEADER_PREFIX);
    if method != Method::POST
        || !from_browser(headers)
        || is_json(headers)
        || headers.keys().any(own_header)
    {
        return Ok(());
    }
    Err(Problem::new(
        Code::UnsupportedMediaType,
        "a page must send application/json, or a triarch-* header, with a request that changes something",
    ))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let Some(kind) = kind.and_then(|kind| kind.to_str().ok()) else {
        return false;
    };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn forbidden(why: &str) -> Problem {
    Problem::new(Code::Forbidden, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().expect("a header name");
            map.append(name, value.parse().expect("a header value"));
        }
        map
    }

    /// Returns the code with which a request is refused, if it is.
    fn refused(method: &str, target: &str, pairs: &[(&str, &str)]) -> Option<Code> {
        let method: Method = method.parse().expect("a method");
        let uri: Uri = target.parse().expect("a target");
        let names = HostNames::new(["Allowed.example"], ["node-a.example:7101", "[::1]:7101"]);
        let members = || {
            vec![
                "127.0.0.1:7102".to_owned(),
                "joined.example:7103".to_owned(),
            ]
        };
        check(&method, &uri, &headers(pairs), &names, members)
            .err()
            .map(|problem| problem.code())
    }

    #[test]
    fn hosts_that_the_cluster_goes_by_and_addresses_are_served() {
        for host in [
            "127.0.0.1:7101",
            "10.2.3.4",
            "[::1]:7101",
            "[fe80::1]",
            "localhost",
            "LocalHost:7101",
            "localhost.:7101",
            "node-a.example:7101",
            "NODE-A.example",
            "allowed.example",
            "joined.example:80",
        ] {
            assert_eq!(
                refused("GET", "/v1/jobs", &[("host", host)]),
                None,
                "{host}"
            );
        }
        // HTTP/1.0 programs send no `Host`.
        assert_eq!(refused("GET", "/v1/jobs", &[]), None);
    }

    #[test]
    fn other_host_names_are_misdirected_on_every_route_but_probes() {
        for host in [
            "evil.example",
            "evil.example:7101",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "node-a.example.evil",
            "xnode-a.example",
            "0x7f000001",
            "127.1",
            "2130706433",
            "localhost..",
            "[::1].evil.example",
        ] {
            for target in [
                "/v1/jobs",
                "/metrics",
                "/",
                "/ui/",
                "/v1/workers/w1-0/poll",
                "/none",
            ] {
                let code = refused("GET", target, &[("host", host)]);
                assert!(
                    matches!(code, Some(Code::MisdirectedRequest | Code::InvalidRequest)),
                    "{host} {target}: {code:?}"
                );
            }
        }
        for probe in PROBES {
            assert_eq!(refused("GET", probe, &[("host", "evil.example")]), None);
        }
    }

    #[test]
    fn a_host_that_is_given_twice_or_in_the_target_is_judged_too() {
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(
            refused("GET", "/v1/jobs", &twice),
            Some(Code::InvalidRequest)
        );
        let target = "http://evil.example/v1/jobs";
        assert_eq!(
            refused("GET", target, &[("host", "localhost")]),
            Some(Code::MisdirectedRequest)
        );
        assert_eq!(
            refused("GET", "/v1/jobs", &[("host", "localhost@evil.example")]),
            Some(Code::MisdirectedRequest)
        );
        assert_eq!(
            refused("GET", "/v1/jobs", &[("host", "evil@localhost")]),
            Some(Code::MisdirectedRequest)
        );
    }

    #[test]
    fn foreign_origins_are_forbidden_for_every_method() {
        for origin in [
            "https://evil.example",
            "http://evil.example:7101",
            "null",
            "",
            "http://localhost",
            "http://localhost:7102",
            "http://127.0.0.1:7101",
            "http://localhost:7101.evil.example",
            "http://evil@localhost:7101",
            "file://",
            "chrome-extension://abc",
        ] {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
                let sent = [
                    ("host", "localhost:7101"),
                    ("origin", origin),
                    ("content-type", "application/json"),
                ];
                assert_eq!(
                    refused(method, "/v1/jobs", &sent),
                    Some(Code::Forbidden),
                    "{method} {origin}"
                );
            }
        }
    }

    #[test]
    fn the_nodes_own_page_may_read_and_change() {
        let own = [
            ("host", "localhost:7101"),
            ("origin", "http://localhost:7101"),
            ("sec-fetch-site", "same-origin"),
            ("content-type", "application/json; charset=utf-8"),
        ];
        assert_eq!(refused("POST", "/v1/jobs", &own), None);
        let through_tls = [
            ("host", "allowed.example"),
            ("origin", "https://allowed.example"),
            ("triarch-request-id", "1"),
        ];
        assert_eq!(refused("POST", "/v1/jobs", &through_tls), None);
        let reading = [("host", "localhost:7101"), ("sec-fetch-site", "none")];
        assert_eq!(refused("GET", "/v1/jobs", &reading), None);
    }

    #[test]
    fn pages_of_other_sites_are_forbidden_by_fetch_metadata_alone() {
        for site in ["cross-site", "same-site", "Cross-Site", ""] {
            let sent = [("host", "localhost:7101"), ("sec-fetch-site", site)];
            for method in ["GET", "POST"] {
                assert_eq!(
                    refused(method, "/v1/jobs", &sent),
                    Some(Code::Forbidden),
                    "{site}"
                );
            }
        }
        let two = [
            ("host", "localhost"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert_eq!(refused("GET", "/v1/jobs", &two), Some(Code::Forbidden));
    }

    #[test]
    fn a_post_from_a_browser_must_force_a_preflight() {
        for kind in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("multipart/form-data; boundary=a"),
            Some("text/plain; application/json"),
            Some("application/jsonx"),
        ] {
            let mut sent = vec![
                ("host", "localhost:7101"),
                ("origin", "http://localhost:7101"),
            ];
            sent.extend(kind.map(|kind| ("content-type", kind)));
            for target in ["/v1/jobs", "/v1/queues/default/pause", "/v1/tasks/cancel"] {
                assert_eq!(
                    refused("POST", target, &sent),
                    Some(Code::UnsupportedMediaType),
                    "{kind:?}"
                );
            }
        }
        // A program sends neither Origin nor Sec-Fetch-*, as `curl -d` does.
        let curl = [
            ("host", "127.0.0.1:7101"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        assert_eq!(refused("POST", "/v1/jobs", &curl), None);
    }

    #[test]
    fn navigating_to_the_page_is_served_from_anywhere_and_nothing_else_is() {
        let link = [
            ("host", "proxy.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        for target in ["/", "/ui", "/ui/", "/ui/app.js"] {
            assert_eq!(refused("GET", target, &link), None, "{target}");
            assert!(refused("POST", target, &link).is_some(), "{target}");
        }
        for target in ["/v1/jobs", "/uix", "/metrics", "/openapi.json"] {
            assert!(refused("GET", target, &link).is_some(), "{target}");
        }
        let framed = [
            ("host", "localhost"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe"),
        ];
        assert_eq!(refused("GET", "/", &framed), Some(Code::Forbidden));
    }

    #[test]
    fn peers_messages_are_never_taken_from_a_browser() {
        assert!(check_peer(&headers(&[("host", "anything")])).is_ok());
        for sent in [
            ("origin", "http://localhost:7101"),
            ("sec-fetch-mode", "no-cors"),
        ] {
            assert!(check_peer(&headers(&[sent])).is_err());
        }
    }

    #[test]
    fn answers_are_hardened_and_a_routes_own_headers_stay() {
        let mut answer = headers(&[("cache-control", "max-age=60")]);
        harden(&mut answer);
        assert_eq!(answer[header::CACHE_CONTROL], "max-age=60");
        assert_eq!(answer[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(
            answer[header::CONTENT_SECURITY_POLICY],
            "frame-ancestors 'none'"
        );
    }
}

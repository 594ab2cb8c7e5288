//! Request and connection metrics of the HTTP interface.
//!
//! Requests are labelled by the route's template, never by their path, so that there are no more series than routes.
//! The latency of long polls and streams is not recorded, because it would measure how long there was nothing to
//! answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use parking_lot::RwLock;
use triarch_raft::Histogram;

use crate::leader_counters::Counter;
use crate::server::protocol::problem::Code;
use crate::server::protocol::query::Query;

/// Route label of requests that match no route.
const UNMATCHED_ROUTE: &str = "none";
/// Routes that are long polls or streams by nature.
const LONG_POLL_ROUTES: [&str; 2] = ["/v1/events", "/v1/workers/{id}/poll"];

/// Labels of a series of requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestLabels {
    /// Template of the route.
    pub route: String,
    /// Method, or `other`.
    pub method: &'static str,
    /// Status class: `2xx`, `3xx`, …
    pub status: &'static str,
}

/// Statistics of the requests of one series.
#[derive(Debug)]
pub struct RequestStats {
    /// Number of requests.
    pub count: Counter,
    /// Time to first byte in ns, long polls not counted.
    pub latency: Histogram,
}

/// Request and connection metrics of one node.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    stats: RwLock<BTreeMap<RequestLabels, Arc<RequestStats>>>,
    in_flight: AtomicU64,
    refused: [AtomicU64; Code::ALL.len()],
    /// Connections of clients and workers.
    pub clients: ConnectionMetrics,
    /// Connections of other nodes.
    pub peers: ConnectionMetrics,
    /// Connections that could not be accepted, for want of file descriptors for one.
    pub accept_errors: Counter,
}

/// Connections of one kind of peer.
#[derive(Debug, Default)]
pub struct ConnectionMetrics {
    open: AtomicU64,
    /// Connections closed at once because there were too many.
    pub refused: Counter,
}

impl ConnectionMetrics {
    /// Counts a connection as open until the guard is dropped.
    pub fn open(&self) -> OpenConnection<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(&self.open)
    }

    /// Returns the number of open connections.
    pub fn count(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

/// Guard of an open connection. See [`ConnectionMetrics::open`].
pub struct OpenConnection<'a>(&'a AtomicU64);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RequestMetrics {
    /// Returns the statistics by labels.
    pub fn stats(&self) -> Vec<(RequestLabels, Arc<RequestStats>)> {
        let stats = self.stats.read();
        stats
            .iter()
            .map(|(labels, stats)| (labels.clone(), Arc::clone(stats)))
            .collect()
    }

    /// Returns the number of requests whose response has not begun.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the number of problems with this code that this node returned itself.
    pub fn refused(&self, code: Code) -> u64 {
        self.refused[code as usize].load(Ordering::Relaxed)
    }

    fn record(&self, labels: RequestLabels, started: Option<Instant>) {
        let known = self.stats.read().get(&labels).map(Arc::clone);
        let stats = known.unwrap_or_else(|| {
            let mut all = self.stats.write();
            let new = || {
                Arc::new(RequestStats {
                    count: Counter::default(),
                    latency: Histogram::of_times(),
                })
            };
            Arc::clone(all.entry(labels).or_insert_with(new))
        });
        stats.count.add(1);
        if let Some(started) = started {
            stats.latency.observe_time(started.elapsed());
        }
    }
}

/// Request whose response has not begun. Its drop also covers a client that went away before.
struct InFlight(Arc<RequestMetrics>);

impl InFlight {
    fn start(metrics: &Arc<RequestMetrics>) -> Self {
        metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(metrics))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Request that is recorded when its response begins.
pub struct RequestRecording {
    in_flight: InFlight,
    route: String,
    method: &'static str,
    is_long_poll: bool,
    started: Instant,
}

impl RequestRecording {
    /// Begins with a request that has been matched to its route.
    pub fn start(metrics: &Arc<RequestMetrics>, request: &Request) -> Self {
        let route = request
            .extensions()
            .get::<MatchedPath>()
            .map_or(UNMATCHED_ROUTE, MatchedPath::as_str)
            .to_owned();
        Self {
            in_flight: InFlight::start(metrics),
            method: method(request.method()),
            is_long_poll: LONG_POLL_ROUTES.contains(&route.as_str())
                || is_long_poll(request.uri().query()),
            route,
            started: Instant::now(),
        }
    }

    /// Records the request with its response.
    pub fn finish(self, response: &Response) {
        let metrics = &self.in_flight.0;
        if let Some(code) = response.extensions().get::<Code>() {
            metrics.refused[*code as usize].fetch_add(1, Ordering::Relaxed);
        }
        let labels = RequestLabels {
            route: self.route,
            method: self.method,
            status: status_class(response.status()),
        };
        metrics.record(labels, (!self.is_long_poll).then_some(self.started));
    }
}

/// Returns whether the query asks to hold the response.
pub fn is_long_poll(query: Option<&str>) -> bool {
    Query::parse_any(query).is_some_and(|query| {
        ["wait_ms", "follow_ms"]
            .into_iter()
            .any(|name| query.text(name).is_some_and(|text| text != "0"))
    })
}

fn method(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    known
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("other")
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

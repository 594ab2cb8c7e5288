//! What goes through the HTTP interface, counted and timed for operators.
//!
//! Requests are told apart by the route's template, never by their path, so that there are no more numbers than routes.
//! How long a request took is not counted where it asked to be held, or is held by its nature: that would say how long
//! there was nothing to answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::RwLock;
use triarch_raft::Histogram;

use crate::leader_counters::Count;
use crate::server::protocol::json::Query;
use crate::server::protocol::problem::Code;

/// The template of requests that no route takes.
const NO_ROUTE: &str = "none";
/// Routes that hold a request by their nature.
const HOLDING: [&str; 2] = ["/v1/events", "/v1/workers/{id}/poll"];

/// Requests that are told apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The route's template.
    pub route: String,
    /// The method, or `other`.
    pub method: &'static str,
    /// `2xx`, `3xx`, …
    pub status: &'static str,
}

/// How requests of one kind went.
#[derive(Debug)]
pub struct Answered {
    /// All of them.
    pub count: Count,
    /// How long they took until their answer began, in ns, but for those that were held.
    pub time: Histogram,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Traffic {
    answered: RwLock<BTreeMap<Kind, Arc<Answered>>>,
    in_flight: AtomicU64,
    refused: [AtomicU64; Code::ALL.len()],
    /// Connections of clients and workers.
    pub clients: Connections,
    /// Connections of other masters.
    pub peers: Connections,
}

/// Connections of one sort.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicU64,
    /// Closed at once, for there were too many.
    pub refused: Count,
}

impl Connections {
    /// Counts one as open until the guard is dropped.
    pub fn open(&self) -> OpenConnection<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(&self.open)
    }

    /// How many are open.
    pub fn count(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

/// See [`Connections::open`].
pub struct OpenConnection<'a>(&'a AtomicU64);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Traffic {
    /// How requests went, by kind.
    pub fn answered(&self) -> Vec<(Kind, Arc<Answered>)> {
        let answered = self.answered.read();
        answered
            .iter()
            .map(|(kind, answered)| (kind.clone(), Arc::clone(answered)))
            .collect()
    }

    /// Requests whose answer has not begun.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Refusals that this node made itself.
    pub fn refused(&self, code: Code) -> u64 {
        self.refused[code as usize].load(Ordering::Relaxed)
    }

    fn note(&self, kind: Kind, begun: Option<Instant>) {
        let known = self.answered.read().get(&kind).map(Arc::clone);
        let answered = known.unwrap_or_else(|| {
            let mut all = self.answered.write();
            let new = || {
                Arc::new(Answered {
                    count: Count::default(),
                    time: Histogram::of_times(),
                })
            };
            Arc::clone(all.entry(kind).or_insert_with(new))
        });
        answered.count.add(1);
        if let Some(begun) = begun {
            answered.time.observe_time(begun.elapsed());
        }
    }
}

/// A request whose answer has not begun; also one whose client goes away before.
struct InFlight(Arc<Traffic>);

impl InFlight {
    fn begin(traffic: &Arc<Traffic>) -> Self {
        traffic.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(traffic))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Around everything that is answered.
pub async fn count(State(traffic): State<Arc<Traffic>>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or(NO_ROUTE, MatchedPath::as_str)
        .to_owned();
    let method = method(request.method());
    let held = HOLDING.contains(&route.as_str()) || asks_to_wait(request.uri().query());
    let begun = Instant::now();
    let in_flight = InFlight::begin(&traffic);
    let response = next.run(request).await;
    drop(in_flight);
    if let Some(code) = response.extensions().get::<Code>() {
        traffic.refused[*code as usize].fetch_add(1, Ordering::Relaxed);
    }
    let kind = Kind {
        route,
        method,
        status: class(response.status()),
    };
    traffic.note(kind, (!held).then_some(begun));
    response
}

fn asks_to_wait(query: Option<&str>) -> bool {
    Query::read_any(query).is_some_and(|query| {
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

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

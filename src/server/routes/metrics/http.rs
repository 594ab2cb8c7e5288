//! What goes through this node's HTTP interface.

use crate::server::App;
use crate::server::http::admission::Shed;
use crate::server::http::request_metrics::Kind;
use crate::server::protocol::problem::Code;
use crate::server::routes::events::READERS_MAX;
use crate::server::routes::metrics::families::{Families, Labels, Scale};

pub fn tell(app: &App, out: &mut Families) {
    let traffic = &app.traffic;
    let answered = traffic.answered();
    let labels = |kind: &Kind| -> Labels {
        vec![
            ("route", kind.route.clone()),
            ("method", kind.method.to_owned()),
            ("status", kind.status.to_owned()),
        ]
    };
    out.counters(
        "triarch_http_requests",
        "Requests that this node answered, by route, method and class of status.",
        answered
            .iter()
            .map(|(kind, answered)| (labels(kind), answered.count.get() as f64))
            .collect(),
    );
    out.histograms(
        "triarch_http_request_seconds",
        "From a request's head until its answer began, forwarding included; requests that are held (polls, wait_ms, event streams) are left out.",
        Scale::Time,
        answered
            .iter()
            .map(|(kind, answered)| (labels(kind), answered.time.read()))
            .filter(|(_, reading)| reading.count() > 0)
            .collect(),
    );
    out.gauge(
        "triarch_http_requests_in_flight",
        "Requests whose answer has not begun, held ones included.",
        traffic.in_flight() as f64,
    );
    let held = |word: &str| -> Labels { vec![("kind", word.to_owned())] };
    let polls = app
        .lead
        .borrow()
        .as_ref()
        .map_or(0, |lead| lead.desk.lock().polls_waiting());
    let readers = READERS_MAX - app.readers.available_permits().min(READERS_MAX);
    out.gauges(
        "triarch_http_held",
        "Requests that are held: for the end of a job or task or for news of one, polls of workers (on the leader), streams of events.",
        vec![
            (held("wait"), app.table.waiters.len() as f64),
            (held("poll"), polls as f64),
            (held("events"), readers as f64),
        ],
    );
    out.counters(
        "triarch_http_refusals",
        "Requests that this node itself refused, by the code of the problem; an answer relayed from the leader counts there.",
        Code::ALL
            .iter()
            .map(|code| {
                let labels = vec![("code", code.as_str().to_owned())];
                (labels, traffic.refused(*code) as f64)
            })
            .collect(),
    );
    out.counters(
        "triarch_http_shed",
        "Requests that were refused unread because there was no room: all places for requests, or the memory for bodies of clients or of workers, were taken.",
        Shed::ALL
            .into_iter()
            .map(|why| {
                let labels = vec![("reason", why.as_str().to_owned())];
                (labels, app.room.shed_count(why) as f64)
            })
            .collect(),
    );
    let of = |word: &str| -> Labels { vec![("of", word.to_owned())] };
    out.gauges(
        "triarch_connections",
        "Open connections: of clients and workers, and of other masters.",
        vec![
            (of("clients"), traffic.clients.count() as f64),
            (of("masters"), traffic.peers.count() as f64),
        ],
    );
    out.counters(
        "triarch_connections_refused",
        "Connections that were closed at once because there were too many.",
        vec![
            (of("clients"), traffic.clients.refused.get() as f64),
            (of("masters"), traffic.peers.refused.get() as f64),
        ],
    );
}

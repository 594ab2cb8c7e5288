//! Metrics of this node's HTTP interface.

use super::families::{Labels, MetricFamilies, Scale};
use crate::server::app::App;
use crate::server::http::admission::ShedReason;
use crate::server::http::request_metrics::RequestLabels;
use crate::server::protocol::problem::Code;

pub fn collect(app: &App, out: &mut MetricFamilies) {
    let metrics = &app.request_metrics;
    let requests = metrics.stats();
    let labels = |labels: &RequestLabels| -> Labels {
        vec![
            ("route", labels.route.clone()),
            ("method", labels.method.to_owned()),
            ("status", labels.status.to_owned()),
        ]
    };
    out.counters(
        "triarch_http_requests",
        "Requests that this node answered, by route, method and status class.",
        requests
            .iter()
            .map(|(series, stats)| (labels(series), stats.count.get() as f64))
            .collect(),
    );
    out.histograms(
        "triarch_http_request_seconds",
        "Time from a request's head until its answer began, including forwarding. Held requests (polls, wait_ms, event streams) are excluded.",
        Scale::Time,
        requests
            .iter()
            .map(|(series, stats)| (labels(series), stats.latency.read()))
            .filter(|(_, reading)| reading.count() > 0)
            .collect(),
    );
    out.gauge(
        "triarch_http_requests_in_flight",
        "Requests whose answer has not begun, including held ones.",
        metrics.in_flight() as f64,
    );
    let held = |word: &str| -> Labels { vec![("kind", word.to_owned())] };
    let polls = app
        .lead
        .borrow()
        .as_ref()
        .map_or(0, |lead| lead.state.lock().polls.len());
    let readers = app.event_places.used();
    out.gauges(
        "triarch_http_held",
        "Held requests: waits for the end or the output of a job or task, polls of workers (on the leader), event streams.",
        vec![
            (held("wait"), app.table.waiters.len() as f64),
            (held("poll"), polls as f64),
            (held("events"), readers as f64),
        ],
    );
    out.counters(
        "triarch_http_refusals",
        "Requests that this node itself refused, by the code of the problem. An answer relayed from the leader is counted there.",
        Code::ALL
            .iter()
            .map(|code| {
                let labels = vec![("code", code.as_str().to_owned())];
                (labels, metrics.refused(*code) as f64)
            })
            .collect(),
    );
    out.counters(
        "triarch_http_shed",
        "Requests refused by admission control: the limit of concurrent requests, or of memory for client or worker bodies or for answers, was reached.",
        ShedReason::ALL
            .into_iter()
            .map(|reason| {
                let labels = vec![("reason", reason.as_str().to_owned())];
                (labels, app.admission.shed_count(reason) as f64)
            })
            .chain([(
                vec![("reason", "answers".to_owned())],
                app.answer_budget.shed_count() as f64,
            )])
            .collect(),
    );
    out.gauge(
        "triarch_http_answer_bytes",
        "Bytes of answers that are being written, those of a few KiB not counted.",
        app.answer_budget.used_bytes() as f64,
    );
    let of = |word: &str| -> Labels { vec![("of", word.to_owned())] };
    out.gauges(
        "triarch_connections",
        "Open connections of clients and workers, and of other masters.",
        vec![
            (of("clients"), metrics.clients.count() as f64),
            (of("masters"), metrics.peers.count() as f64),
        ],
    );
    out.counters(
        "triarch_connections_refused",
        "Connections closed at once because the limit was reached.",
        vec![
            (of("clients"), metrics.clients.refused.get() as f64),
            (of("masters"), metrics.peers.refused.get() as f64),
        ],
    );
    out.counter(
        "triarch_connections_evicted",
        "Idle connections of clients and workers that were closed for new ones, or for want of descriptors.",
        app.connections.evicted() as f64,
    );
    out.counter(
        "triarch_accept_errors",
        "Failed attempts to accept a connection, for want of descriptors for one; each is repeated after 50 ms.",
        metrics.accept_errors.get() as f64,
    );
}

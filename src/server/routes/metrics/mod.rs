//! `GET /metrics`: what this node counts and measures, in the format of Prometheus.
//!
//! Always about the node that is asked: nothing is forwarded and nobody else is waited for, so it also answers where
//! there is no leader. A scrape looks at counts that are kept anyway. It walks over no tasks, holds the table's lock for as
//! long as it takes to copy some numbers of each queue, and looks at the disk on a thread of its own.
//!
//! Every metric is described in `docs/metrics.md`; a test compares the page with what is told.

pub mod consensus;
pub mod families;
pub mod http;
pub mod process;
pub mod table;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::App;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::routes::metrics::families::{Families, Format};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// What this node counts and measures, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses((status = 200, description = "The metrics, as OpenMetrics to those who ask for it", body = String, content_type = "text/plain"))
)]
async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let mut families = Families::default();
    consensus::tell(&app, &mut families);
    table::tell(&app, &mut families);
    crate::server::routes::metrics::http::tell(&app, &mut families);
    crate::server::routes::metrics::process::tell(&app, &mut families).await;
    let format = Format::asked(headers.get(header::ACCEPT));
    match families.written(format) {
        Ok(text) => {
            let kind = HeaderValue::from_static(format.content_type());
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => Problem::new(
            Code::Unavailable,
            format!("the metrics cannot be written: {error}"),
        )
        .into_response(),
    }
}

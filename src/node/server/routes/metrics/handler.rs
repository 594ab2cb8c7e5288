//! Handler of `/metrics`.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::families::{Format, MetricFamilies};
use super::{consensus, http, process, table};
use crate::server::app::App;
use crate::server::protocol::problem::{Code, Problem};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Returns the metrics of this node for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses((status = 200, description = "Metrics in the Prometheus text format, or in OpenMetrics if the request accepts it.", body = String, content_type = "text/plain"))
)]
async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let mut families = MetricFamilies::default();
    consensus::collect(&app, &mut families);
    table::collect(&app, &mut families);
    http::collect(&app, &mut families);
    process::collect(&app, &mut families).await;
    let format = Format::negotiate(headers.get(header::ACCEPT));
    match families.encode_text(format) {
        Ok(text) => {
            let kind = HeaderValue::from_static(format.content_type());
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => Problem::new(
            Code::Unavailable,
            format!("the metrics cannot be encoded: {error}"),
        )
        .into_response(),
    }
}

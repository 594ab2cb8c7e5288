//! Handler of `/openapi.json`.

use axum::Extension;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use triarch_sdk::wire;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;

/// Serialized document, as it is sent.
#[derive(Clone)]
pub struct Document(Bytes);

/// The schemas that are not gathered from routes: refusals, payloads by convention, words of queries.
#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(
    wire::Problem,
    wire::Consistency,
    wire::ListOrder,
    wire::JobState,
    wire::TaskState,
    wire::WorkerState,
    wire::ExecPayload,
    wire::ExecResult,
    wire::ExecError
)))]
struct SharedSchemas;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(<SharedSchemas as utoipa::OpenApi>::openapi())
        .routes(routes!(openapi))
}

/// Returns this OpenAPI document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "health",
    responses((status = 200, description = "OpenAPI document.", body = serde_json::Value))
)]
async fn openapi(Extension(Document(document)): Extension<Document>) -> Response {
    let mut response = Response::new(Body::from(document));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Serializes the document.
pub fn serialize(document: &Value) -> serde_json::Result<Document> {
    Ok(Document(Bytes::from(serde_json::to_vec(document)?)))
}

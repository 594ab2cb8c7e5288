//! Router of the client interface: every route behind its middleware, and the OpenAPI document gathered from the routes.

use anyhow::Context;
use axum::extract::DefaultBodyLimit;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router};
use utoipa_axum::router::OpenApiRouter;

use super::app::App;
use super::http::client_address::ClientAddress;
use super::http::request_metrics::RequestRecording;
use super::http::{body, browser_guard, request_checks};
use super::leader_proxy;
use super::protocol::problem::{self, Code, Problem};
use super::routes::{
    backup, bulk_tasks, cluster, events, health, jobs, metrics, openapi, queues, schedules,
    task_explain, task_logs, task_wait, tasks, workers,
};

/// Client routes that change something a second time when they are repeated. A follower forwards them to the leader, once.
fn once_routes() -> OpenApiRouter<App> {
    cluster::once_routes().merge(bulk_tasks::once_routes())
}

/// Client routes that are safe to repeat. A follower forwards them to the leader, and to the next one after an unknown
/// outcome.
fn client_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(jobs::routes())
        .merge(tasks::routes())
        .merge(bulk_tasks::routes())
        .merge(task_wait::routes())
        .merge(task_explain::routes())
        .merge(task_logs::client_routes())
        .merge(queues::routes())
        .merge(schedules::routes())
        .merge(cluster::routes())
        .merge(backup::client_routes())
        .merge(workers::client_routes())
}

/// Worker routes. A follower redirects them to the leader.
fn worker_routes() -> OpenApiRouter<App> {
    workers::worker_routes().merge(task_logs::worker_routes())
}

/// Local routes, which every node answers itself.
fn local_routes() -> OpenApiRouter<App> {
    events::routes()
        .merge(backup::local_routes())
        .merge(health::routes())
        .merge(metrics::routes())
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(
        Code::NotFound,
        format!("there is no route {}; the API is under /v1", uri.path()),
    )
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!("{} does not support {method}", uri.path()),
    )
}

/// Routes that only read, although their method is `POST`.
const READ_POSTS: [&str; 1] = ["/v1/tasks/wait"];

/// Middleware of every route for clients and workers, the fallbacks included: the request metrics, the browser guard, the
/// checks of requests, problem details for errors of the HTTP framework, and the budget for answers.
///
/// This is one layer, because every layer costs every request several allocations.
async fn every_request(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let recording = RequestRecording::start(&app.request_metrics, &request);
    let members = || {
        let nodes = app.node.status().nodes;
        nodes.into_iter().map(|node| node.addr).collect()
    };
    let checked = browser_guard::check(
        request.method(),
        request.uri(),
        request.headers(),
        &app.host_names,
        members,
    )
    .and_then(|()| request_checks::check(request.uri(), request.headers()));
    let client = ClientAddress::of_request(request.extensions(), request.headers());
    let is_read = request.method() == Method::GET || READ_POSTS.contains(&request.uri().path());
    let response = match checked {
        Ok(()) => {
            // The leader proxy bounds every body, with its own bound and error.
            DefaultBodyLimit::disable().apply(&mut request);
            problem::convert_framework_errors(next.run(request).await).await
        }
        Err(problem) => {
            let (parts, body) = request.into_parts();
            // A client that is still sending reads no response before it is done.
            let discarded = body::discard(&parts.headers, body);
            let _ = tokio::time::timeout(app.limits.body_timeout, discarded).await;
            problem.into_response()
        }
    };
    let mut response = app.answer_budget.count(response, client, is_read).await;
    browser_guard::harden(response.headers_mut());
    recording.finish(&response);
    response
}

/// Builds the router.
///
/// # Errors
///
/// Fails if the OpenAPI document cannot be serialized.
pub fn build(app: App) -> anyhow::Result<Router> {
    let client_routes =
        client_routes().route_layer(from_fn_with_state(app.clone(), leader_proxy::client));
    let once_routes =
        once_routes().route_layer(from_fn_with_state(app.clone(), leader_proxy::client_once));
    let worker_routes =
        worker_routes().route_layer(from_fn_with_state(app.clone(), leader_proxy::worker));
    let without_body = from_fn_with_state(app.clone(), leader_proxy::without_body);
    let (document_route, mut description) = openapi::routes().split_for_parts();
    let (routes, described) = local_routes()
        .route_layer(without_body.clone())
        .merge(client_routes)
        .merge(once_routes)
        .merge(worker_routes)
        .split_for_parts();
    description.merge(described);
    let document = openapi::complete(description)
        .and_then(|document| openapi::serialize(&document))
        .context("cannot generate the OpenAPI document")?;
    let document_route = document_route
        .layer(Extension(document))
        .route_layer(without_body.clone());
    let routes = routes.merge(document_route);
    Ok(routes
        .fallback(not_found.layer(without_body.clone()))
        .method_not_allowed_fallback(method_not_allowed.layer(without_body))
        .layer(from_fn_with_state(app.clone(), every_request))
        .with_state(app))
}

#[cfg(test)]
mod tests;

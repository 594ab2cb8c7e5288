//! Parts common to many operations, added to the document that was gathered from the routes: refusals and headers.

use serde_json::Value;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{KnownFormat, Object, SchemaFormat};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, Info, License, ObjectBuilder, OpenApi, Ref, RefOr, Required,
    ResponseBuilder, Schema, Type,
};

use super::shape::shape;
use crate::server::http::browser_guard::PROBES;
use crate::server::protocol::headers::{INDEX, MIN_INDEX, REQUEST_ID};
use crate::server::protocol::problem::{Code, PROBLEM_JSON};
use crate::server::protocol::validate::NAME_BYTES_MAX;

/// Completes the document that was gathered from the routes.
///
/// # Errors
///
/// Fails if the document cannot be serialized.
pub fn complete(mut gathered: OpenApi) -> serde_json::Result<Value> {
    gathered.info = Info::new("Triarch", env!("CARGO_PKG_VERSION"));
    gathered.info.description = Some(
        "HTTP interface of a replicated task master. Every node accepts every request. A follower forwards requests of \
         clients to the leader, and redirects the protocol requests of workers to it."
            .into(),
    );
    gathered.info.license = Some(License::new("Apache-2.0"));
    gathered.servers = None;
    for (path, item) in &mut gathered.paths.paths {
        for (method, operation) in operations(item) {
            complete_operation(path, method, operation);
        }
    }
    let schemas = gathered.components.iter_mut();
    let problem = schemas
        .flat_map(|components| components.schemas.get_mut("Problem"))
        .next();
    if let Some(RefOr::T(Schema::Object(problem))) = problem {
        let words = Code::ALL.iter().map(|code| code.as_str().into()).collect();
        if let Some(RefOr::T(Schema::Object(code))) = problem.properties.get_mut("code") {
            code.enum_values = Some(words);
        }
    }
    let mut document = serde_json::to_value(&gathered)?;
    shape(&mut document);
    Ok(document)
}

/// Returns the operations of a path, by method.
pub fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("get", item.get.as_mut()),
        ("put", item.put.as_mut()),
        ("post", item.post.as_mut()),
        ("delete", item.delete.as_mut()),
        ("patch", item.patch.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
}

fn complete_operation(path: &str, method: &str, operation: &mut Operation) {
    // A handler's name is unique within its file only.
    let tag = operation.tags.iter().flatten().next();
    if let (Some(id), Some(tag)) = (&operation.operation_id, tag) {
        operation.operation_id = Some(format!("{tag}_{id}"));
    }
    let parameters = operation.parameters.get_or_insert_default();
    match headers(path, method) {
        Headers::None => {}
        Headers::Change => parameters.push(RefOr::T(header(
            REQUEST_ID.as_str(),
            "Id of this change, the same for all retries: a repeated request gets the same response and is applied once.",
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .max_length(Some(NAME_BYTES_MAX))
                .pattern(Some("^[!-~]+$"))
                .build(),
        ))),
        Headers::Read => parameters.push(RefOr::T(header(
            MIN_INDEX.as_str(),
            "Log index that the responding node must have applied before it responds.",
            log_index(),
        ))),
    }
    if headers(path, method) != Headers::None {
        for (status, answer) in &mut operation.responses.responses {
            if let (true, RefOr::T(answer)) = (status.starts_with('2'), answer) {
                let index = HeaderBuilder::new()
                    .schema(Some(log_index()))
                    .description(Some("Log index that the response reflects."))
                    .build();
                answer
                    .headers
                    .insert(INDEX.as_str().into(), RefOr::T(index));
            }
        }
    }
    let mut refusals: Vec<(String, Vec<Code>)> = Vec::new();
    for code in codes(path, method) {
        let status = code.status().as_u16().to_string();
        match refusals.iter_mut().find(|(known, _)| *known == status) {
            Some((_, codes)) => codes.push(code),
            None => refusals.push((status, vec![code])),
        }
    }
    for (status, codes) in refusals {
        let words: Vec<String> = codes
            .iter()
            .map(|code| format!("`{}`: {}", code.as_str(), code.title()))
            .collect();
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let refusal = ResponseBuilder::new()
            .description(words.join("; "))
            .content(PROBLEM_JSON, content)
            .build();
        operation
            .responses
            .responses
            .insert(status, RefOr::T(refusal));
    }
}

#[derive(PartialEq, Eq)]
enum Headers {
    None,
    Read,
    Change,
}

fn headers(path: &str, method: &str) -> Headers {
    match method {
        _ if !path.starts_with("/v1/") || path == "/v1/events" => Headers::None,
        "get" => Headers::Read,
        _ => Headers::Change,
    }
}

fn header(name: &str, description: &str, schema: Object) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

fn log_index() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::UInt64)))
        .minimum(Some(0))
        .build()
}

/// Returns the codes with which a route may refuse.
fn codes(path: &str, method: &str) -> Vec<Code> {
    let mut codes = route_codes(path, method);
    // The browser guard stands before every route.
    codes.push(Code::Forbidden);
    if !PROBES.contains(&path) {
        codes.push(Code::MisdirectedRequest);
    }
    if method != "get" {
        codes.push(Code::UnsupportedMediaType);
    }
    codes
}

fn route_codes(path: &str, method: &str) -> Vec<Code> {
    match path {
        "/healthz" => return Vec::new(),
        "/openapi.json" => return vec![Code::RateLimited],
        "/metrics" => return vec![Code::RateLimited, Code::Unavailable],
        "/readyz" => return vec![Code::NoLeader],
        "/v1/events" => {
            return vec![
                Code::InvalidRequest,
                Code::PositionGone,
                Code::RateLimited,
                Code::Unavailable,
                Code::NoLeader,
                Code::Timeout,
                Code::StorageFailed,
            ];
        }
        _ => {}
    }
    let mut codes = vec![
        Code::NotLeader,
        Code::InvalidRequest,
        Code::PayloadTooLarge,
        Code::RateLimited,
        Code::NoLeader,
        Code::Timeout,
        Code::StorageFailed,
    ];
    if method != "get" {
        codes.extend([Code::Conflict, Code::AlreadyFinished, Code::QueueFull]);
    }
    // The target of a transfer is in the body.
    // A job may come after others.
    let names_others =
        ["/v1/cluster/transfer-leader", "/v1/jobs"].contains(&path) && method == "post";
    if path.contains('{') || names_others {
        codes.push(Code::NotFound);
    }
    let of_levels = [
        ("/v1/cluster/upgrade", "post"),
        ("/v1/cluster/nodes", "post"),
        ("/v1/jobs", "post"),
        ("/v1/schedules/{name}", "put"),
    ];
    if of_levels.contains(&(path, method)) {
        codes.push(Code::NodeTooOld);
    }
    if path.starts_with("/v1/workers/") {
        codes.push(Code::UnknownWorker);
    }
    codes
}

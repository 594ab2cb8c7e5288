mod generated_clients;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use triarch_sdk::wire::ProblemCode;
use utoipa_axum::router::OpenApiRouter;

use super::{client_routes, local_routes, once_routes, openapi, worker_routes};
use crate::server::app::App;
use crate::server::protocol::problem::Code;
use crate::server::routes::openapi::{complete, operations};

fn document() -> Value {
    complete(all_routes().into_openapi()).expect("plain")
}

fn all_routes() -> OpenApiRouter<App> {
    openapi::routes()
        .merge(local_routes())
        .merge(client_routes())
        .merge(once_routes())
        .merge(worker_routes())
}

/// Returns every file below `directory`, with its text.
fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            let text = std::fs::read_to_string(&path).expect("it can be read");
            found.push((path.display().to_string(), text));
        }
    }
    found
}

#[test]
fn every_route_is_documented() {
    // A route made by `routes!` includes its description, and there is no other way to make a route.
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("server");
    for (path, text) in sources(&directory) {
        if path.ends_with("router/tests.rs") {
            continue;
        }
        for undocumented in [
            ".route(",
            ".route_service(",
            ".nest_service(",
            "Router::new().nest(",
        ] {
            assert!(
                !text.contains(undocumented),
                "{path} makes a route by \"{undocumented}…\", which leaves it undocumented: give its handler \
                 #[utoipa::path(…)] and add it by .routes(routes!(handler))"
            );
        }
    }
}

#[test]
fn every_operation_says_what_it_takes_and_gives() {
    let document = document();
    let mut ids = BTreeSet::new();
    let mut all = all_routes().into_openapi();
    let mut count = 0;
    for (path, item) in &mut all.paths.paths {
        for (method, _) in operations(item) {
            count += 1;
            let operation = &document["paths"][path][method];
            let what = format!("{method} {path}");
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{what}: {id} is taken");
            let words = operation["summary"].as_str().unwrap_or_default();
            assert!(!words.is_empty(), "{what} has no summary");
            let answers = operation["responses"].as_object().expect("responses");
            assert!(
                answers.keys().any(|status| status.starts_with('2')),
                "{what}"
            );
            for (status, answer) in answers {
                for (kind, content) in answer["content"].as_object().into_iter().flatten() {
                    assert!(!content["schema"].is_null(), "{what}, {status}, {kind}");
                }
            }
            for name in path.split('{').skip(1) {
                let name = name.split('}').next().expect("closed");
                let parameters = operation["parameters"].as_array().expect("parameters");
                let found = parameters
                    .iter()
                    .any(|one| one["in"] == "path" && one["name"] == name);
                assert!(found, "{what} does not describe {name}");
            }
        }
    }
    assert!(count > 20, "only {count} operations");
    assert_eq!(
        document["paths"].as_object().map(serde_json::Map::len),
        Some(all.paths.paths.len())
    );
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    found.insert(to);
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 10, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("within this document");
        assert!(
            document.pointer(pointer).is_some(),
            "{reference} is not there"
        );
    }
}

#[test]
fn bodies_of_requests_allow_no_unknown_fields() {
    let document = document();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let Some(named) = schema["$ref"].as_str() else {
                assert!(schema.is_null(), "{method} {path}: {schema}");
                continue;
            };
            let body = document.pointer(&named[1..]).expect("it is there");
            assert_eq!(body["additionalProperties"], false, "{named}");
        }
    }
}

#[test]
fn problems_are_the_same_in_the_code_the_document_and_the_docs() {
    let words: BTreeMap<&str, u16> = Code::ALL
        .iter()
        .map(|code| (code.as_str(), code.status().as_u16()))
        .collect();
    assert_eq!(words.len(), Code::ALL.len());
    for (word, status) in &words {
        let known = ProblemCode::ALL
            .iter()
            .find(|known| known.as_str() == *word);
        let known = known.unwrap_or_else(|| panic!("clients do not know {word}"));
        assert_eq!(known.status(), *status, "{word}");
    }

    let document = document();
    let listed = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
    let listed: BTreeSet<&str> = listed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(listed, words.keys().copied().collect());

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/http-api.md");
    let page = std::fs::read_to_string(page).expect("it is there");
    let (_, errors) = page.split_once("\n## Errors\n").expect("it is a chapter");
    let (errors, _) = errors.split_once("\n## ").expect("others follow");
    let mut documented = BTreeMap::new();
    for row in errors.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let status: u16 = cells[2].parse().expect("a status");
        for word in cells[1].split(", ") {
            documented.insert(word.trim_matches('`'), status);
        }
    }
    assert_eq!(documented, words);
}

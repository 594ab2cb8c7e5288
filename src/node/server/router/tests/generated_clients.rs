//! Forms of the document without which generated clients lack types. `scripts/compat.sh` generates and uses such clients.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document;

/// Properties of answers that any JSON may be in: data of users.
const ANY_JSON: [&str; 3] = ["error", "payload", "result"];

/// Properties of answers that are absent instead of empty, false or zero.
const OMITTED: [(&str, &str); 9] = [
    ("HeartbeatAnswer", "problems"),
    ("Job", "after_jobs"),
    ("PollAnswer", "problems"),
    ("ReportAnswer", "problems"),
    ("SendOutputAnswer", "problems"),
    ("TableDigest", "areas"),
    ("Task", "after"),
    ("Task", "more"),
    ("Task", "tags"),
];

/// Formats of the registry of formats, as far as the interface needs them.
const FORMATS: [&str; 10] = [
    "binary",
    "date-time",
    "double",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float",
];

/// Calls `visit` with every operation, and with its method and path.
fn each_operation(document: &Value, mut visit: impl FnMut(&str, &Value)) {
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            visit(&format!("{method} {path}"), operation);
        }
    }
}

/// Calls `visit` with every value below `value`, and with its place.
fn each_value(value: &Value, place: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(place, value);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                each_value(value, &format!("{place}/{name}"), visit);
            }
        }
        Value::Array(items) => {
            for (item, index) in items.iter().zip(0..) {
                each_value(item, &format!("{place}/{index}"), visit);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Adds the names of all schemas to which `value` leads.
fn reached<'a>(document: &'a Value, value: &'a Value, names: &mut BTreeSet<&'a str>) {
    let mut found = Vec::new();
    let mut stack = vec![value];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                stack.extend(fields.values());
            }
            Value::Array(items) => stack.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for reference in found {
        let name = reference.rsplit('/').next().expect("a name");
        if names.insert(name) {
            reached(document, &document["components"]["schemas"][name], names);
        }
    }
}

fn is_nullable(schema: &Value) -> bool {
    let null = Value::from("null");
    let listed = |types: &Value| types.as_array().is_some_and(|types| types.contains(&null));
    let in_union = |union: &Value| {
        union
            .as_array()
            .is_some_and(|union| union.iter().any(|one| one["type"] == null))
    };
    listed(&schema["type"]) || in_union(&schema["oneOf"])
}

/// Returns whether a schema says nothing about its values.
fn allows_any_json(schema: &Value) -> bool {
    ["type", "$ref", "oneOf", "enum", "const"]
        .iter()
        .all(|word| schema.get(word).is_none())
}

#[test]
fn every_json_body_and_every_answer_has_a_named_schema() {
    let document = document();
    each_operation(&document, |what, operation| {
        let answers = operation["responses"].as_object().expect("responses");
        let contents = answers
            .iter()
            .map(|(status, answer)| (status.as_str(), &answer["content"]))
            .chain([("body", &operation["requestBody"]["content"])]);
        for (part, content) in contents {
            let Some(kinds) = content.as_object() else {
                assert_eq!(part, "body", "{what}, {part}: no content");
                continue;
            };
            for (kind, content) in kinds {
                let named = content["schema"]["$ref"].is_string();
                let is_text = content["schema"]["type"] == "string" && !kind.ends_with("json");
                let is_binary = kind == "application/octet-stream";
                let is_document = what == "get /openapi.json" && part == "200";
                assert!(
                    named || is_text || is_binary || is_document,
                    "{what}, {part}, {kind}: a generator has no name for this type: {}",
                    content["schema"]
                );
            }
        }
    });
}

#[test]
fn every_error_of_every_operation_is_a_problem_document() {
    let document = document();
    each_operation(&document, |what, operation| {
        let mut errors = 0;
        for (status, answer) in operation["responses"].as_object().expect("responses") {
            if status.starts_with('2') {
                continue;
            }
            errors += 1;
            let content = answer["content"].as_object().expect("content");
            let kinds: Vec<&String> = content.keys().collect();
            assert_eq!(kinds, ["application/problem+json"], "{what}, {status}");
            let schema = &content["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{what}, {status}");
        }
        assert!(errors > 0, "{what} describes no error");
    });
}

#[test]
fn operation_ids_are_names_in_every_language() {
    let document = document();
    let mut names = BTreeSet::new();
    each_operation(&document, |what, operation| {
        let id = operation["operationId"].as_str().expect("an id");
        let words: Vec<&str> = id.split('_').collect();
        let is_name =
            |word: &&str| word.chars().all(|c| c.is_ascii_lowercase()) && !word.is_empty();
        assert!(words.iter().all(is_name) && words.len() > 1, "{what}: {id}");
        assert!(names.insert(words.concat()), "{what}: {id} is taken");
    });
}

#[test]
fn unions_are_nullable_or_have_a_discriminator_or_are_a_string_or_an_object() {
    let document = document();
    each_value(&document, "", &mut |place, value| {
        let Some(fields) = value.as_object() else {
            return;
        };
        if place.ends_with("/properties") {
            return;
        }
        for word in ["allOf", "anyOf", "not"] {
            assert!(
                !fields.contains_key(word),
                "{place}: generators disagree about {word}"
            );
        }
        let Some(union) = value["oneOf"].as_array() else {
            return;
        };
        let references = union.iter().filter(|one| one["$ref"].is_string()).count();
        let nullable = union.len() == 2 && references == 1 && is_nullable(value);
        let discriminated =
            references == union.len() && value["discriminator"]["propertyName"].is_string();
        // JSON itself tells a string from an object.
        let strings = union.iter().filter(|one| one["type"] == "string").count();
        let short_or_long = union.len() == 2 && references == 1 && strings == 1;
        assert!(
            nullable || discriminated || short_or_long,
            "{place}: an anonymous union has no useful type"
        );
    });
}

#[test]
fn the_discriminator_of_events_leads_to_the_schema_with_that_type() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let mapping = schemas["Event"]["discriminator"]["mapping"]
        .as_object()
        .expect("a mapping");
    assert!(mapping.len() > 10, "{mapping:?}");
    assert_eq!(
        Some(mapping.len()),
        schemas["Event"]["oneOf"].as_array().map(Vec::len)
    );
    for (word, reference) in mapping {
        let pointer = &reference.as_str().expect("a reference")[1..];
        let schema = document.pointer(pointer).expect("it is there");
        assert_eq!(schema["properties"]["type"]["enum"][0], word.as_str());
        let required = schema["required"].as_array().expect("a list");
        for name in ["id", "at", "type"] {
            assert!(required.contains(&Value::from(name)), "{word} lacks {name}");
        }
    }
}

#[test]
fn answers_require_every_property_that_they_always_have() {
    let document = document();
    let (mut taken, mut given) = (BTreeSet::new(), BTreeSet::new());
    each_operation(&document, |_, operation| {
        let parameters = &operation["parameters"];
        // Names outlive the closure only as owned text.
        let mut names = BTreeSet::new();
        reached(&document, &operation["requestBody"], &mut names);
        reached(&document, parameters, &mut names);
        taken.extend(names.iter().map(ToString::to_string));
        let mut names = BTreeSet::new();
        reached(&document, &operation["responses"], &mut names);
        given.extend(names.iter().map(ToString::to_string));
    });
    let mut checked = 0;
    for name in given.difference(&taken) {
        let schema = &document["components"]["schemas"][name];
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
            checked += 1;
            let optional = is_nullable(schema)
                || allows_any_json(schema)
                || OMITTED.contains(&(name.as_str(), property.as_str()));
            assert_ne!(
                optional,
                required.contains(&Value::from(property.as_str())),
                "{name}.{property}: an answer always has it, so it needs schema(required); otherwise make it an Option, or \
                 name it in OMITTED"
            );
        }
    }
    assert!(checked > 100, "only {checked} properties");
}

#[test]
fn only_data_of_users_is_free_of_types() {
    let document = document();
    each_value(
        &document["components"]["schemas"],
        "",
        &mut |place, value| {
            for (name, schema) in value["properties"].as_object().into_iter().flatten() {
                assert!(
                    !allows_any_json(schema) || ANY_JSON.contains(&name.as_str()),
                    "{place}: {name} has no type"
                );
            }
        },
    );
}

#[test]
fn formats_are_those_of_the_registry() {
    let document = document();
    each_value(&document, "", &mut |place, value| {
        if let Some(format) = value.get("format").and_then(Value::as_str) {
            assert!(FORMATS.contains(&format), "{place}: {format}");
        }
    });
}

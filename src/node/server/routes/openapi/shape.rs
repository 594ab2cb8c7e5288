//! Shape that generators of clients need. It says the same as the gathered document, in forms that all of them read:
//!
//! - Each kind of event is a schema with a name, and the union of them has a discriminator.
//! - An optional body is optional, rather than a union with `null`.
//! - Formats of numbers have the names in the registry of formats.

use serde_json::{Map, Value, json};

/// Prefix of references to schemas.
const SCHEMAS: &str = "#/components/schemas/";

/// Changes the serialized document.
pub fn shape(document: &mut Value) {
    if let Some(schemas) = document.pointer_mut("/components/schemas")
        && let Some(schemas) = schemas.as_object_mut()
    {
        name_events(schemas);
    }
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        let operations = paths
            .values_mut()
            .filter_map(Value::as_object_mut)
            .flat_map(Map::values_mut);
        for operation in operations {
            if let Some(content) = operation.pointer_mut("/requestBody/content/application~1json") {
                optional_body(content);
            }
        }
    }
    rename_formats(document);
}

/// Replaces `Event`, which is gathered as fields and an anonymous union of all kinds, by a union of named schemas.
fn name_events(schemas: &mut Map<String, Value>) {
    let Some(kinds) = schemas
        .remove("Happened")
        .and_then(|happened| happened.get("oneOf").cloned())
    else {
        return;
    };
    let Some(event) = schemas.remove("Event") else {
        return;
    };
    let common = event["allOf"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|part| part.get("properties").is_some())
        .cloned()
        .unwrap_or_default();
    let mut references = Vec::new();
    let mut mapping = Map::new();
    for mut kind in kinds.as_array().cloned().unwrap_or_default() {
        let Some(word) = kind
            .pointer("/properties/type/enum/0")
            .and_then(Value::as_str)
            .map(str::to_owned)
        else {
            continue;
        };
        for (name, schema) in common["properties"].as_object().into_iter().flatten() {
            kind["properties"][name] = schema.clone();
        }
        if let Some(required) = kind["required"].as_array_mut() {
            required.extend(common["required"].as_array().cloned().unwrap_or_default());
        }
        let name = format!("{}Event", camel_case(&word));
        let reference = format!("{SCHEMAS}{name}");
        references.push(json!({ "$ref": reference }));
        mapping.insert(word, Value::String(reference));
        schemas.insert(name, kind);
    }
    schemas.insert(
        "Event".to_owned(),
        json!({
            "description": event["description"],
            "oneOf": references,
            "discriminator": {"propertyName": "type", "mapping": mapping},
        }),
    );
}

fn camel_case(word: &str) -> String {
    word.split('_')
        .map(|part| {
            let (first, rest) = part.split_at(part.len().min(1));
            first.to_uppercase() + rest
        })
        .collect()
}

/// Takes `null` out of the schema of a body. A missing body is not `null`, which is refused.
fn optional_body(content: &mut Value) {
    let reference = content["schema"]["oneOf"].as_array().and_then(|union| {
        let others: Vec<&Value> = union.iter().filter(|one| one["type"] != "null").collect();
        match others[..] {
            [one] => one.get("$ref").cloned(),
            _ => None,
        }
    });
    if let Some(reference) = reference {
        content["schema"] = json!({ "$ref": reference });
    }
}

fn rename_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(format) if name == "format" => {
                        if let Some(bits) = format.strip_prefix("u-int") {
                            *format = format!("uint{bits}");
                        }
                    }
                    _ => rename_formats(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(rename_formats),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

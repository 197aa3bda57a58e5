//! Replies nobody wrote: something valid for whatever is asked.
//!
//! With a schema, the smallest instance of it that says something; for a file, a file; otherwise a sentence. Meant for people
//! who develop a client against this server and have no script; the same request always gives the same reply.

use serde_json::{Map, Value, json};

use super::request::Request;
use super::script::Reply;

/// Schemas nested deeper than this are answered with null: no reply needs them.
const MOST_DEPTH: usize = 32;

/// The reply to a request that no script answers.
pub(super) fn reply(request: &Request) -> Reply {
    if let Some(schema) = &request.schema {
        return Reply::new(instance(schema, schema, MOST_DEPTH).to_string());
    }
    match request.key.strip_prefix("file ") {
        Some(path) => Reply::new(format!(
            "<file path=\"{path}\" id=\"{{{{id}}}}\">\nThis is {path}, made up by a local server.\n</file-{{{{id}}}}>\n"
        )),
        None => Reply::new("This is a made-up reply of a local server."),
    }
}

/// The smallest instance of `schema` in which every array has an element.
fn instance(schema: &Value, root: &Value, depth: usize) -> Value {
    if depth == 0 {
        return Value::Null;
    }
    if let Some(target) = schema["$ref"].as_str().and_then(|path| root.pointer(path.trim_start_matches('#'))) {
        return instance(target, root, depth - 1);
    }
    if let Some(value) = schema.get("const").or_else(|| schema["enum"].as_array().and_then(|values| values.first())) {
        return value.clone();
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema[choice].as_array().and_then(|choices| choices.first()) {
            return instance(first, root, depth - 1);
        }
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"].as_array().and_then(|kinds| kinds.first()?.as_str()));
    match kind {
        Some("object") => {
            let members = schema["properties"].as_object().into_iter().flatten();
            let members = members.map(|(name, member)| (name.clone(), instance(member, root, depth - 1)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        Some("array") => {
            let count = schema["minItems"].as_u64().unwrap_or(1).clamp(1, 100);
            let items = (0..count).map(|_| instance(&schema["items"], root, depth - 1));
            Value::Array(items.collect())
        }
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        _ => json!("made-up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_everything_its_schema_names() {
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "kind": {"enum": ["a", "b"]},
                "size": {"type": ["integer", "null"]},
                "tags": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/tag"}},
                "either": {"anyOf": [{"type": "boolean"}, {"type": "string"}]},
            },
            "$defs": {"tag": {"type": "object", "properties": {"id": {"const": 7}}}},
        });
        let expected =
            json!({"name": "made-up", "kind": "a", "size": 1, "tags": [{"id": 7}, {"id": 7}], "either": true});
        assert_eq!(instance(&schema, &schema, MOST_DEPTH), expected);
        let endless = json!({"type": "array", "items": {"$ref": "#"}});
        assert!(instance(&endless, &endless, MOST_DEPTH).is_array());
    }
}

//! The templates that give the data streams their mapping.
//!
//! Mapping conflicts are avoided rather than handled: below `payload` every number is a `double` that ignores what is
//! malformed, dots do not make objects (so `{"a": 1}` and `{"a": {"b": 1}}` live in one index), and fields beyond the
//! limit stay in the source without being indexed.

use serde_json::{Value, json};

/// Raised with each change of what is below. A template of a later version is left alone.
pub const VERSION: u64 = 1;

/// Of Elastic's own `logs-*-*` it is 100.
const PRIORITY: u64 = 200;

/// Characters of a keyword that are indexed; four bytes each, they stay within Lucene's limit for a term.
const KEYWORD_LIMIT: u64 = 8191;

/// What the server understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Elasticsearch from 8.14 on.
    Current,
    /// Elasticsearch from 7.17 on, OpenSearch 2: without `subobjects`, `index.mode` and the generous field limit, so that
    /// a payload can conflict with an earlier one; then it is a dead letter.
    Plain,
}

/// The dialects to try, best first: a server refuses what it does not know.
pub const DIALECTS: [Dialect; 2] = [Dialect::Current, Dialect::Plain];

/// A resource of Elasticsearch to be put.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Below the server's root.
    pub path: String,
    pub body: Value,
}

/// In the order in which they have to be put. A stream whose name is not of ours has a template of its own.
pub fn templates(dialect: Dialect, stream: &str) -> Vec<Template> {
    let template = |path: &str, body| Template { path: path.to_owned(), body };
    let mut templates = vec![
        template("_component_template/logs-mqtt@settings", component(&json!({"settings": settings(dialect)}))),
        template("_component_template/logs-mqtt@mappings", component(&json!({"mappings": mappings(dialect)}))),
        template("_index_template/logs-mqtt", documents(dialect, "logs-mqtt.*-*")),
        template("_index_template/logs-mqtt.deadletter", dead_letters(dialect)),
    ];
    if !stream.starts_with("logs-mqtt.") {
        templates.push(template(&format!("_index_template/{stream}"), documents(dialect, stream)));
    }
    templates
}

/// The version in the `_meta` of a template as `GET` shows it, by the path of its resource.
pub fn version_of(path: &str, answer: &Value) -> Option<u64> {
    let (list, item) = if path.starts_with("_component") {
        ("component_templates", "component_template")
    } else {
        ("index_templates", "index_template")
    };
    answer[list][0][item]["_meta"]["version"].as_u64()
}

fn meta() -> Value {
    json!({"managed_by": "mqtt-operator", "version": VERSION})
}

fn component(template: &Value) -> Value {
    json!({"template": template, "_meta": meta()})
}

fn settings(dialect: Dialect) -> Value {
    match dialect {
        Dialect::Current => json!({
            "index.mode": "standard",
            "index.mapping.total_fields.ignore_dynamic_beyond_limit": true,
        }),
        Dialect::Plain => json!({}),
    }
}

fn documents(dialect: Dialect, pattern: &str) -> Value {
    let mut template = json!({
        "index_patterns": [pattern],
        "data_stream": {},
        "priority": PRIORITY,
        "composed_of": ["logs-mqtt@settings", "logs-mqtt@mappings"],
        "_meta": meta(),
    });
    if dialect == Dialect::Current {
        // Where people put their own mappings; it need not exist.
        template["composed_of"] = json!(["logs-mqtt@settings", "logs-mqtt@mappings", "logs-mqtt@custom"]);
        template["ignore_missing_component_templates"] = json!(["logs-mqtt@custom"]);
    }
    template
}

/// Nothing is indexed that could be refused: what is here was refused already.
fn dead_letters(dialect: Dialect) -> Value {
    let mut mappings = mappings(dialect);
    mappings["dynamic"] = json!(false);
    mappings["dynamic_templates"] = json!([]);
    mappings["properties"]["mqtt"]["properties"]["user_properties"] = json!({"type": "object", "enabled": false});
    mappings["properties"]["payload"] = json!({"type": "object", "enabled": false});
    json!({
        "index_patterns": ["logs-mqtt.deadletter-*"],
        "data_stream": {},
        "priority": PRIORITY + 10,
        "composed_of": ["logs-mqtt@settings"],
        "template": {"mappings": mappings},
        "_meta": meta(),
    })
}

fn keyword() -> Value {
    json!({"type": "keyword", "ignore_above": KEYWORD_LIMIT})
}

fn mappings(dialect: Dialect) -> Value {
    json!({
        "date_detection": false,
        "numeric_detection": false,
        "dynamic_templates": [
            // No `match_mapping_type: date`: a text that looks like a date in one message is none in the next.
            {"payload_integers": {"path_match": "payload.*", "match_mapping_type": "long", "mapping": number()}},
            {"payload_numbers": {"path_match": "payload.*", "match_mapping_type": "double", "mapping": number()}},
            {"payload_switches": {"path_match": "payload.*", "match_mapping_type": "boolean", "mapping": keyword()}},
            {"strings": {"match_mapping_type": "string", "mapping": keyword()}},
        ],
        "properties": {
            "@timestamp": {"type": "date"},
            "data_stream": {"properties": {"type": keyword(), "dataset": keyword(), "namespace": keyword()}},
            "ecs": {"properties": {"version": keyword()}},
            "event": {"properties": {
                "id": keyword(), "created": {"type": "date"}, "dataset": keyword(), "kind": keyword(),
            }},
            "message": {"type": "text"},
            "payload": payload(dialect),
            "payload_b64": {"type": "binary"},
            "payload_size": {"type": "long"},
            "payload_truncated": {"type": "boolean"},
            "mqtt": {"properties": {
                "topic": keyword(), "topic_levels": keyword(), "qos": {"type": "byte"},
                "retained": {"type": "boolean"}, "duplicate": {"type": "boolean"}, "message_id": {"type": "integer"},
                "client_id": keyword(), "content_type": keyword(), "response_topic": keyword(),
                "expiry_interval": {"type": "long"},
                "user_properties": user_properties(dialect),
            }},
            "network": {"properties": {"protocol": keyword()}},
            "observer": {"properties": {
                "name": keyword(), "product": keyword(), "type": keyword(), "version": keyword(),
            }},
            "orchestrator": {"properties": {
                "namespace": keyword(), "resource": {"properties": {"name": keyword(), "type": keyword()}},
            }},
            "error": {"properties": {"code": keyword(), "type": keyword(), "message": {"type": "text"}}},
            "labels": {"properties": {"data_stream": keyword()}},
        },
    })
}

/// Whole numbers too: the first reading of a thermometer may be `21`, the second `21.5`.
fn number() -> Value {
    json!({"type": "double", "ignore_malformed": true})
}

fn payload(dialect: Dialect) -> Value {
    // `payload.value` holds the numbers, `payload.value.text` whatever a bare payload was.
    let mut value = number();
    value["fields"] = json!({"text": keyword()});
    let mut payload = json!({"type": "object", "dynamic": true, "properties": {"value": value}});
    if dialect == Dialect::Current {
        payload["subobjects"] = json!(false);
    }
    payload
}

/// Names are the publishers' own: `flattened` keeps any number of them in one field.
fn user_properties(dialect: Dialect) -> Value {
    match dialect {
        Dialect::Current => json!({"type": "flattened", "ignore_above": KEYWORD_LIMIT}),
        // OpenSearch has no `flattened`.
        Dialect::Plain => json!({"type": "object", "enabled": false}),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{DIALECTS, VERSION, templates, version_of};

    #[test]
    fn every_template_carries_the_version_and_comes_after_what_it_is_composed_of() {
        for dialect in DIALECTS {
            let mut put = vec!["logs-mqtt@custom".to_owned()];
            for template in templates(dialect, "logs-sensors-shop") {
                assert_eq!(template.body["_meta"]["version"], VERSION);
                let parts = template.body["composed_of"].as_array().cloned().unwrap_or_default();
                assert!(parts.iter().all(|part| put.iter().any(|name| part == name)), "{parts:?} after {put:?}");
                put.push(template.path.rsplit('/').next().unwrap().to_owned());
            }
            assert_eq!(
                put.last().unwrap(),
                "logs-sensors-shop",
                "a stream of somebody's own has a template of its own"
            );
            assert_eq!(templates(dialect, "logs-mqtt.home-shop").len(), 4);
        }
    }

    #[test]
    fn the_version_is_read_from_what_the_server_shows() {
        let shown = json!({"index_templates": [{"name": "logs-mqtt", "index_template": {"_meta": {"version": 7}}}]});
        assert_eq!(version_of("_index_template/logs-mqtt", &shown), Some(7));
        assert_eq!(version_of("_component_template/logs-mqtt@mappings", &shown), None);
        let foreign = json!({"component_templates": [{"component_template": {"template": {}}}]});
        assert_eq!(version_of("_component_template/logs-mqtt@mappings", &foreign), None);
    }
}

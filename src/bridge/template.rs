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
        template("_component_template/logs-mqtt@settings", component(dialect, &json!({"settings": settings(dialect)}))),
        template("_component_template/logs-mqtt@mappings", component(dialect, &json!({"mappings": mappings(dialect)}))),
        template("_index_template/logs-mqtt", documents(dialect, "logs-mqtt.*-*")),
        template("_index_template/logs-mqtt.deadletter", dead_letters(dialect)),
    ];
    if !stream.starts_with("logs-mqtt.") {
        templates.push(template(&format!("_index_template/{stream}"), documents(dialect, stream)));
    }
    templates
}

/// A template that is simulated, not put, to learn whether the server understands the dialect. Its pattern meets no other.
pub fn probe(dialect: Dialect) -> Template {
    let template = json!({"settings": settings(dialect), "mappings": mappings(dialect)});
    let body = json!({"index_patterns": ["mqtt-operator.probe"], "priority": 1, "template": template});
    Template { path: "_index_template/_simulate".to_owned(), body }
}

/// Whether what `GET` shows for the path of a resource makes it needless to put it: the same, or of a later version.
pub fn is_current(path: &str, answer: &Value, dialect: Dialect) -> bool {
    let (list, item) = if path.starts_with("_component") {
        ("component_templates", "component_template")
    } else {
        ("index_templates", "index_template")
    };
    let meta = &answer[list][0][item]["_meta"];
    let version = meta["version"].as_u64().unwrap_or_default();
    version > VERSION || (version == VERSION && meta["dialect"] == dialect.name())
}

impl Dialect {
    fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Plain => "plain",
        }
    }
}

fn meta(dialect: Dialect) -> Value {
    json!({"managed_by": "mqtt-operator", "version": VERSION, "dialect": dialect.name()})
}

fn component(dialect: Dialect, template: &Value) -> Value {
    json!({"template": template, "_meta": meta(dialect)})
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
        "_meta": meta(dialect),
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
        "_meta": meta(dialect),
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
    use serde_json::{Value, json};

    use super::{DIALECTS, Dialect, VERSION, is_current, templates};

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
    fn only_what_is_there_in_this_dialect_or_a_later_version_is_left_alone() {
        let path = "_index_template/logs-mqtt";
        let shown =
            |meta: Value| json!({"index_templates": [{"name": "logs-mqtt", "index_template": {"_meta": meta}}]});
        for (meta, current) in [
            (json!({"version": VERSION, "dialect": "current"}), true),
            (json!({"version": VERSION, "dialect": "plain"}), false),
            (json!({"version": VERSION + 1, "dialect": "other"}), true),
            (json!({"version": VERSION - 1, "dialect": "current"}), false),
            (json!({}), false),
        ] {
            assert_eq!(is_current(path, &shown(meta.clone()), Dialect::Current), current, "{meta}");
        }
        let component =
            json!({"component_templates": [{"component_template": {"_meta": super::meta(Dialect::Plain)}}]});
        assert!(is_current("_component_template/logs-mqtt@mappings", &component, Dialect::Plain));
        assert!(!is_current(path, &component, Dialect::Plain));
    }
}

//! YAML as a tree that remembers its lines, and its comparison with a schema.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value and the line that it begins on.
#[derive(Clone, Debug)]
pub struct Node {
    pub line: u64,
    pub tree: Tree,
}

/// What a YAML document can hold.
#[derive(Clone, Debug)]
pub enum Tree {
    Scalar(Value),
    List(Vec<Node>),
    /// Keys with the line of the key.
    Map(Vec<(String, u64, Node)>),
}

/// A place in a document and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub line: u64,
    /// `spec.auth.users[1].name`.
    pub field: String,
    pub message: String,
}

impl Node {
    /// The value below a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.tree {
            Tree::Map(entries) => entries.iter().find(|(name, ..)| name == key).map(|(.., node)| node),
            _ => None,
        }
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.tree {
            Tree::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether this is an explicit or implied null.
    pub fn is_null(&self) -> bool {
        matches!(self.tree, Tree::Scalar(Value::Null))
    }

    /// The line of the node at `field`, or of the closest node above it that exists.
    pub fn line_of(&self, field: &str) -> u64 {
        let mut node = self;
        let mut line = self.line;
        for step in field.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match &node.tree {
                Tree::Map(entries) => {
                    entries.iter().find(|(name, ..)| name == step).map(|(_, line, node)| (*line, node))
                }
                Tree::List(items) => step
                    .trim_end_matches(']')
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                    .map(|node| (node.line, node)),
                Tree::Scalar(_) => None,
            };
            let Some((found, below)) = next else { break };
            (line, node) = (found, below);
        }
        line
    }

    /// The same without lines; nulls in maps are dropped, as an API server drops them.
    pub fn to_json(&self) -> Value {
        match &self.tree {
            Tree::Scalar(value) => value.clone(),
            Tree::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Tree::Map(entries) => Value::Object(
                entries
                    .iter()
                    .filter(|(.., node)| !node.is_null())
                    .map(|(name, _, node)| (name.clone(), node.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The first place where this does not fit a structural schema: an unknown or missing field, a wrong type, a value
    /// that is not in the list or not in the range.
    pub fn check(&self, schema: &Value, field: &str) -> Result<(), Fault> {
        if self.is_null() {
            return Ok(());
        }
        let fault = |message: String| Err(Fault { line: self.line, field: field.to_owned(), message });
        if let Some(expected) = schema["type"].as_str()
            && !self.has_type(expected)
        {
            return fault(format!("must be {}", article(expected)));
        }
        match &self.tree {
            Tree::Map(entries) => check_map(self.line, entries, schema, field),
            Tree::List(items) => {
                if let Some(least) = schema["minItems"].as_u64()
                    && (items.len() as u64) < least
                {
                    return fault(format!("must have at least {least} {}", if least == 1 { "item" } else { "items" }));
                }
                for (index, item) in items.iter().enumerate() {
                    item.check(&schema["items"], &format!("{field}[{index}]"))?;
                }
                Ok(())
            }
            Tree::Scalar(value) => match check_scalar(value, schema) {
                Some(message) => fault(message),
                None => Ok(()),
            },
        }
    }

    fn has_type(&self, expected: &str) -> bool {
        match (&self.tree, expected) {
            (Tree::Map(_), "object") | (Tree::List(_), "array") => true,
            (Tree::Scalar(value), _) => match expected {
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                _ => false,
            },
            _ => false,
        }
    }
}

fn check_map(line: u64, entries: &[(String, u64, Node)], schema: &Value, field: &str) -> Result<(), Fault> {
    let below = |name: &str| if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
    let Some(known) = schema["properties"].as_object() else {
        // A map with free keys, or a value whose shape its consumer checks.
        return entries
            .iter()
            .try_for_each(|(name, _, node)| node.check(&schema["additionalProperties"], &below(name)));
    };
    for (name, line, node) in entries {
        let Some(schema) = known.get(name) else {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            let message = format!("unknown field; known are {}", names.join(", "));
            return Err(Fault { line: *line, field: below(name), message });
        };
        node.check(schema, &below(name))?;
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !entries.iter().any(|(present, _, node)| present == name && !node.is_null()) {
            return Err(Fault { line, field: below(name), message: "is required".into() });
        }
    }
    Ok(())
}

fn check_scalar(value: &Value, schema: &Value) -> Option<String> {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(plain).collect();
        return Some(format!("{} is not one of {}", plain(value), allowed.join(", ")));
    }
    if let Some(number) = value.as_f64() {
        if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
            return Some(format!("must be at least {least}"));
        }
        if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
            return Some(format!("must be at most {most}"));
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|least| length < least) {
            return Some("must not be empty".into());
        }
        if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
            return Some(format!("must have at most {most} characters"));
        }
    }
    None
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"))
}

fn article(kind: &str) -> &str {
    match kind {
        "object" => "a map",
        "array" => "a list",
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        other => other,
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), tree: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        Number::from_f64(value)
            .map(|number| Tree::Scalar(Value::Number(number)))
            .ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            map.push((key.value, key.referenced.line(), entries.next_value()?));
        }
        Ok(Tree::Map(map))
    }
}

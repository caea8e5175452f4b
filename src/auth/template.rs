//! The topic of a rule before the client is known: a filter with places for the client's own values.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

use super::filter::{self, Filter, FilterError};
use super::rule::Permission;

/// What a placeholder may take its value from.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub subject: Option<&'a str>,
    pub claims: &'a ClaimValues,
}

/// The claims that a placeholder may take its value from, by name: texts and whole numbers. All others, lists of rules
/// above all, would take kilobytes for as long as a session lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimValues(Box<[(Box<str>, Box<str>)]>);

impl ClaimValues {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|claim| *claim.0 == *name).map(|claim| &*claim.1)
    }

    /// As claims again.
    pub fn to_object(&self) -> Map<String, Value> {
        self.0.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect()
    }
}

impl From<&Map<String, Value>> for ClaimValues {
    fn from(claims: &Map<String, Value>) -> Self {
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.as_str().into()),
            Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string().into()),
            _ => None,
        };
        Self(claims.iter().filter_map(|(name, value)| Some((name.as_str().into(), text(value)?))).collect())
    }
}

/// The topic of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// After `eq `: this filter and no other. Without a wildcard the text is a template without placeholders.
    Exact(Filter),
    Template(Template),
}

/// A filter with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    levels: Vec<TemplateLevel>,
    tail: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplateLevel {
    /// `+`, or a text.
    Fixed(Box<str>),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Placeholder(Placeholder),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Placeholder {
    ClientId,
    /// `%c`
    ShortClientId,
    Username,
    /// `%u`
    ShortUsername,
    Subject,
    Claim(Box<str>),
}

/// Why a text is not the topic of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("{0}")]
    Filter(#[from] FilterError),
    #[error("`{0}` is not closed")]
    Unclosed(String),
    #[error("`${{{0}}}` is unknown; there are ${{clientid}}, ${{username}}, ${{sub}} and ${{claims.NAME}}")]
    Unknown(String),
    #[error("a first level that begins with `$` takes no placeholder")]
    Dollar,
    #[error("a rule is about the filter without `$share/…/`; say `share` for the group")]
    Share,
}

impl Pattern {
    /// Reads the topic of a rule.
    pub fn parse(topic: &str) -> Result<Self, TemplateError> {
        let exact = topic.strip_prefix("eq ");
        let filter = exact.unwrap_or(topic);
        if filter == "$share" || filter.starts_with("$share/") {
            return Err(TemplateError::Share);
        }
        if let Some(exact) = exact {
            let filter = Filter::parse(exact)?;
            if exact.contains(['+', '#']) {
                return Ok(Self::Exact(filter));
            }
            // A name: what forbids it forbids every subscription that would bring it.
            let levels = exact.split('/').map(|level| TemplateLevel::Fixed(level.into())).collect();
            return Ok(Self::Template(Template { levels, tail: false }));
        }
        if topic.is_empty() {
            return Err(FilterError::Empty.into());
        }
        let (head, tail) = filter::split_tail(topic);
        let levels: Vec<TemplateLevel> =
            head.map_or_else(|| Ok(Vec::new()), |head| head.split('/').map(parse_level).collect())?;
        if let Some(TemplateLevel::Parts(parts)) = levels.first()
            && let Some(Part::Text(text)) = parts.first()
            && text.starts_with('$')
        {
            return Err(TemplateError::Dollar);
        }
        Ok(Self::Template(Template { levels, tail }))
    }
}

impl Template {
    /// Whether the filter is the same for every client.
    pub fn is_fixed(&self) -> bool {
        self.levels.iter().all(|level| matches!(level, TemplateLevel::Fixed(_)))
    }

    /// The filter for one client. A placeholder without a usable value makes an allow rule disappear, and a deny rule
    /// apply whatever that level is.
    pub fn resolve(&self, values: &Values<'_>, permission: Permission) -> Option<Filter> {
        let mut levels = Vec::with_capacity(self.levels.len());
        for (index, level) in self.levels.iter().enumerate() {
            levels.push(match level {
                TemplateLevel::Fixed(text) => Some(Cow::Borrowed(&**text)),
                TemplateLevel::Parts(parts) => match (fill(parts, index == 0, values), permission) {
                    (Some(text), _) => Some(Cow::Owned(text)),
                    (None, Permission::Allow) => return None,
                    (None, Permission::Deny) => None,
                },
            });
        }
        Some(Filter::new(levels.iter().map(Option::as_deref), self.tail))
    }

    /// Whether a placeholder has no value that can be used.
    pub fn lacks_a_value(&self, values: &Values<'_>) -> bool {
        self.levels.iter().enumerate().any(|(index, level)| match level {
            TemplateLevel::Fixed(_) => false,
            TemplateLevel::Parts(parts) => fill(parts, index == 0, values).is_none(),
        })
    }
}

/// The topic as the rule has it.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = match self {
            Self::Exact(filter) => return write!(f, "eq {filter}"),
            Self::Template(template) => template,
        };
        let looks_like_a_placeholder = |level: &TemplateLevel| match level {
            TemplateLevel::Fixed(text) => ["${", "%c", "%u"].iter().any(|mark| text.contains(mark)),
            TemplateLevel::Parts(_) => false,
        };
        f.write_str(if template.levels.iter().any(looks_like_a_placeholder) { "eq " } else { "" })?;
        for (index, level) in template.levels.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "/" })?;
            match level {
                TemplateLevel::Fixed(text) => f.write_str(text)?,
                TemplateLevel::Parts(parts) => parts.iter().try_for_each(|part| part.fmt(f))?,
            }
        }
        match (template.levels.is_empty(), template.tail) {
            (true, _) => f.write_str("#"),
            (false, true) => f.write_str("/#"),
            (false, false) => Ok(()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Placeholder(Placeholder::ClientId) => f.write_str("${clientid}"),
            Self::Placeholder(Placeholder::ShortClientId) => f.write_str("%c"),
            Self::Placeholder(Placeholder::Username) => f.write_str("${username}"),
            Self::Placeholder(Placeholder::ShortUsername) => f.write_str("%u"),
            Self::Placeholder(Placeholder::Subject) => f.write_str("${sub}"),
            Self::Placeholder(Placeholder::Claim(name)) => write!(f, "${{claims.{name}}}"),
        }
    }
}

/// The text of a level, unless a value in it is missing or would change what the rule is about.
fn fill(parts: &[Part], first: bool, values: &Values<'_>) -> Option<String> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(part) => text.push_str(part),
            Part::Placeholder(placeholder) => {
                let value = match placeholder {
                    Placeholder::ClientId | Placeholder::ShortClientId => values.client_id,
                    Placeholder::Username | Placeholder::ShortUsername => values.username?,
                    Placeholder::Subject => values.subject?,
                    Placeholder::Claim(name) => values.claims.get(name)?,
                };
                if !usable(value) {
                    return None;
                }
                text.push_str(value);
            }
        }
    }
    (!(first && text.starts_with('$'))).then_some(text)
}

fn usable(value: &str) -> bool {
    !value.is_empty()
        && !value.contains(|character: char| matches!(character, '/' | '+' | '#') || character.is_control())
}

fn parse_level(text: &str) -> Result<TemplateLevel, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((start, placeholder, end)) = next_placeholder(rest)? {
        if start > 0 {
            parts.push(Part::Text(rest[..start].into()));
        }
        parts.push(Part::Placeholder(placeholder));
        rest = &rest[end..];
    }
    if parts.is_empty() {
        filter::check_level(text)?;
        return Ok(TemplateLevel::Fixed(text.into()));
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    for part in &parts {
        if let Part::Text(text) = part {
            filter::check_literal(text)?;
        }
    }
    Ok(TemplateLevel::Parts(parts))
}

/// The first placeholder: where it starts, what it is, where it ends.
fn next_placeholder(text: &str) -> Result<Option<(usize, Placeholder, usize)>, TemplateError> {
    let starts = [("${", None), ("%c", Some(Placeholder::ShortClientId)), ("%u", Some(Placeholder::ShortUsername))];
    let first =
        starts.into_iter().filter_map(|(mark, alias)| Some((text.find(mark)?, alias))).min_by_key(|(at, _)| *at);
    let Some((start, alias)) = first else { return Ok(None) };
    if let Some(alias) = alias {
        return Ok(Some((start, alias, start + 2)));
    }
    let Some(length) = text[start..].find('}') else {
        return Err(TemplateError::Unclosed(text[start..].to_owned()));
    };
    let name = &text[start + 2..start + length];
    let placeholder = match name {
        "clientid" => Placeholder::ClientId,
        "username" => Placeholder::Username,
        "sub" => Placeholder::Subject,
        _ => match name.strip_prefix("claims.") {
            Some(claim) if !claim.is_empty() => Placeholder::Claim(claim.into()),
            _ => return Err(TemplateError::Unknown(name.to_owned())),
        },
    };
    Ok(Some((start, placeholder, start + length + 1)))
}

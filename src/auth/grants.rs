//! What one client may do: the rules that concern it, with its own values in place, in the order in which they decide.

use std::sync::Arc;

use super::filter::Filter;
use super::rule::{Action, Permission, QosSet, Rule, Share};
use super::template::{Pattern, TemplateError, Values};
use crate::mqtt::QoS;

/// A rule whose parts have been checked.
#[derive(Clone, Debug)]
pub struct Statement {
    pattern: Pattern,
    action: Action,
    kind: Kind,
    /// The rule as it decides, if it is the same for every client.
    fixed: Option<Arc<Decider>>,
}

/// What of a rule does not depend on the client.
#[derive(Clone, Debug)]
struct Kind {
    permission: Permission,
    /// Bit n is set if the rule is about QoS n.
    qos: u8,
    retain: Option<bool>,
    share: Option<Share>,
}

/// A rule as it decides for one client.
#[derive(Clone, Debug)]
struct Decider {
    topics: Topics,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Topics {
    /// This text as a topic name; as a filter, this set of topics and no other.
    Exact(Box<str>, Filter),
    Filter(Filter),
}

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("topic: {0}")]
    Topic(#[from] TemplateError),
    #[error("topic: `eq ` takes the rest literally, so this would forbid nothing; a placeholder has no value there")]
    LiteralPlaceholder,
    #[error("qos: {0} is not a level of QoS")]
    Qos(u8),
    #[error("qos: an empty list would never match")]
    NoQos,
    #[error("retain: says nothing about a subscription")]
    Retain,
    #[error("share: says nothing about a publication")]
    Share,
    #[error("share: an empty list would never match")]
    NoShare,
}

impl Statement {
    /// Checks a rule.
    pub fn compile(rule: &Rule) -> Result<Self, RuleError> {
        let pattern = Pattern::parse(&rule.topic)?;
        if rule.permission == Permission::Deny
            && let Pattern::Exact(text, _) = &pattern
            && text.contains("${")
        {
            return Err(RuleError::LiteralPlaceholder);
        }
        let qos = match &rule.qos {
            None => 0b111,
            Some(QosSet::One(level)) => mask(&[*level])?,
            Some(QosSet::Many(levels)) => mask(levels)?,
        };
        if rule.retain.is_some() && rule.action == Action::Subscribe {
            return Err(RuleError::Retain);
        }
        match &rule.share {
            Some(_) if rule.action == Action::Publish => return Err(RuleError::Share),
            Some(Share::Groups(groups)) if groups.is_empty() => return Err(RuleError::NoShare),
            _ => {}
        }
        let kind = Kind { permission: rule.permission, qos, retain: rule.retain, share: rule.share.clone() };
        let topics = match &pattern {
            Pattern::Exact(text, filter) => Some(Topics::Exact(text.clone(), filter.clone())),
            Pattern::Template(template) if template.is_fixed() => {
                let nobody = Values { client_id: "", username: None, subject: None, claims: &serde_json::Map::new() };
                template.resolve(&nobody, rule.permission).map(Topics::Filter)
            }
            Pattern::Template(_) => None,
        };
        let fixed = topics.map(|topics| Arc::new(Decider { topics, kind: kind.clone() }));
        Ok(Self { pattern, action: rule.action, kind, fixed })
    }

    /// The rule for one client; nothing if it allows and a value in it is unusable.
    fn resolve(&self, values: &Values<'_>) -> Option<Arc<Decider>> {
        if let Some(fixed) = &self.fixed {
            return Some(Arc::clone(fixed));
        }
        let topics = match &self.pattern {
            Pattern::Exact(text, filter) => Topics::Exact(text.clone(), filter.clone()),
            Pattern::Template(template) => Topics::Filter(template.resolve(values, self.kind.permission)?),
        };
        Some(Arc::new(Decider { topics, kind: self.kind.clone() }))
    }

    /// The topic with the values in place, for people; nothing if the rule allows and a value in it is unusable.
    pub(super) fn effective_topic(&self, values: &Values<'_>) -> Option<String> {
        self.resolve(values).map(|decider| match &decider.topics {
            Topics::Exact(text, _) => format!("eq {text}"),
            Topics::Filter(filter) => filter.to_string(),
        })
    }
}

fn mask(levels: &[u8]) -> Result<u8, RuleError> {
    levels
        .iter()
        .try_fold(0u8, |mask, level| match level {
            0..=2 => Ok(mask | 1 << level),
            _ => Err(RuleError::Qos(*level)),
        })
        .and_then(|mask| if mask == 0 { Err(RuleError::NoQos) } else { Ok(mask) })
}

impl Kind {
    fn concerns_qos(&self, qos: QoS) -> bool {
        self.qos & 1 << qos as u8 != 0
    }

    fn concerns_share(&self, share: Option<&str>) -> bool {
        match (&self.share, share) {
            (None, _) => true,
            (Some(Share::Any(shared)), share) => *shared == share.is_some(),
            (Some(Share::Groups(groups)), Some(share)) => groups.iter().any(|group| group == share),
            (Some(Share::Groups(_)), None) => false,
        }
    }
}

/// What a client may publish and subscribe. Cheap to clone; the same for as long as nobody asks [`super::Policy`] again.
#[derive(Clone, Debug)]
pub struct Grants(Arc<Inner>);

#[derive(Debug)]
enum Inner {
    /// The first rule that applies decides; none means no.
    Rules { publish: Box<[Arc<Decider>]>, subscribe: Box<[Arc<Decider>]> },
    /// The bridge: exactly these filters, plain or shared in the group [`BRIDGE_GROUP`].
    Bridge { topics: Box<[String]> },
}

/// The only group through which the bridge may share its subscriptions.
pub const BRIDGE_GROUP: &str = "bridge";

impl Grants {
    /// Nothing.
    pub fn deny_all() -> Self {
        Self::from_statements(
            std::iter::empty(),
            &Values { client_id: "", username: None, subject: None, claims: &serde_json::Map::new() },
        )
    }

    /// The rules, in the order in which they decide, for one client.
    pub(super) fn from_statements<'a>(statements: impl Iterator<Item = &'a Statement>, values: &Values<'_>) -> Self {
        let (mut publish, mut subscribe) = (Vec::new(), Vec::new());
        for statement in statements {
            let Some(decider) = statement.resolve(values) else { continue };
            if statement.action != Action::Subscribe {
                publish.push(Arc::clone(&decider));
            }
            if statement.action != Action::Publish {
                subscribe.push(decider);
            }
        }
        Self(Arc::new(Inner::Rules { publish: publish.into(), subscribe: subscribe.into() }))
    }

    pub(super) fn bridge(topics: &[String]) -> Self {
        Self(Arc::new(Inner::Bridge { topics: topics.into() }))
    }

    /// Whether the client may publish to the topic, as a will too. Allocates nothing.
    pub fn may_publish(&self, topic: &str, qos: QoS, retain: bool) -> bool {
        let Inner::Rules { publish, .. } = &*self.0 else { return false };
        for decider in publish {
            let kind = &decider.kind;
            if kind.concerns_qos(qos)
                && kind.retain.is_none_or(|only| only == retain)
                && match &decider.topics {
                    Topics::Filter(filter) => filter.matches(topic),
                    Topics::Exact(text, _) => **text == *topic && !topic.contains(['+', '#']),
                }
            {
                return kind.permission == Permission::Allow && is_open(topic);
            }
        }
        false
    }

    /// Whether the client may subscribe to the filter, given without `$share/…/`, directly or as a member of a group. An
    /// allow rule must cover the filter; a deny rule need only have a topic in common with it.
    pub fn may_subscribe(&self, filter: &str, share: Option<&str>, qos: QoS) -> bool {
        let subscribe = match &*self.0 {
            Inner::Rules { subscribe, .. } => subscribe,
            Inner::Bridge { topics } => {
                return share.is_none_or(|group| group == BRIDGE_GROUP) && topics.iter().any(|topic| topic == filter);
            }
        };
        let Ok(asked) = Filter::parse(filter) else { return false };
        if first_level(filter) == "$share" {
            return false;
        }
        for decider in subscribe {
            let kind = &decider.kind;
            if kind.concerns_qos(qos)
                && kind.concerns_share(share)
                && match (&decider.topics, kind.permission) {
                    (Topics::Exact(_, rule), _) => *rule == asked,
                    (Topics::Filter(rule), Permission::Allow) => rule.covers(&asked),
                    (Topics::Filter(rule), Permission::Deny) => rule.overlaps(&asked),
                }
            {
                return kind.permission == Permission::Allow;
            }
        }
        false
    }
}

/// Whether clients may publish there at all: no rule opens the broker's own topics.
fn is_open(topic: &str) -> bool {
    !matches!(first_level(topic), "$SYS" | "$CONTROL" | "$share")
}

fn first_level(topic: &str) -> &str {
    topic.split('/').next().unwrap_or(topic)
}

#[cfg(test)]
mod tests;

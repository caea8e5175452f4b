//! What one client may do: the rules that concern it, with its own values in place, in the order in which they decide.

use std::ops::Deref;
use std::sync::Arc;

use super::filter::Filter;
use super::layer::{Decision, Layer};
use super::rule::{Action, Permission, QosSet, Rule, Share};
use super::template::{ClaimValues, Pattern, TemplateError, Values};
use crate::mqtt::QoS;

/// Every level of QoS.
const ALL_QOS: u8 = 0b111;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub permission: Permission,
    /// Bit n is set if the rule is about QoS n.
    pub qos: u8,
    pub retain: Option<bool>,
    pub share: Option<Share>,
    /// Where the rule stands.
    pub layer: Layer,
}

/// A rule as it decides for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decider {
    /// The first bytes of every topic that the rule is about, and which of them count: most rules need no longer look.
    head: u64,
    mask: u64,
    /// The last eight bytes of what all these topics begin with, and where they stand, if that is longer: rules of a kind
    /// often begin alike and differ there.
    end: u64,
    end_at: u32,
    pub kind: Kind,
    pub filter: Filter,
    /// The rule is about this very filter, and about no topic.
    pub exact: bool,
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
        Self::compile_in(rule, Layer::default())
    }

    /// As [`Self::compile`], for a rule that stands there.
    pub(super) fn compile_in(rule: &Rule, layer: Layer) -> Result<Self, RuleError> {
        let pattern = Pattern::parse(&rule.topic)?;
        if rule.permission == Permission::Deny && rule.topic.starts_with("eq ") && rule.topic.contains("${") {
            return Err(RuleError::LiteralPlaceholder);
        }
        let qos = match &rule.qos {
            None => ALL_QOS,
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
        let kind = Kind { permission: rule.permission, qos, retain: rule.retain, share: rule.share.clone(), layer };
        let fixed = match &pattern {
            Pattern::Exact(filter) => Some(Decider::new(filter.clone(), true, kind.clone())),
            Pattern::Template(template) if template.is_fixed() => {
                let nobody = Values { client_id: "", username: None, subject: None, claims: &ClaimValues::default() };
                let filter = template.resolve(&nobody, rule.permission);
                filter.map(|filter| Decider::new(filter, false, kind.clone()))
            }
            Pattern::Template(_) => None,
        };
        Ok(Self { pattern, action: rule.action, kind, fixed: fixed.map(Arc::new) })
    }

    /// The rule that it was made from.
    pub(super) fn rule(&self) -> Rule {
        let Kind { permission, qos, retain, share, .. } = &self.kind;
        let levels = || (0..3).filter(|level| qos & (1 << level) != 0).collect();
        Rule {
            permission: *permission,
            action: self.action,
            topic: self.pattern.to_string(),
            qos: (*qos != ALL_QOS).then(|| QosSet::Many(levels())),
            retain: *retain,
            share: share.clone(),
        }
    }

    /// The rule for one client; nothing if it allows and a value in it is unusable.
    pub(super) fn resolve(&self, values: &Values<'_>) -> Option<Arc<Decider>> {
        if let Some(fixed) = &self.fixed {
            return Some(Arc::clone(fixed));
        }
        let Pattern::Template(template) = &self.pattern else { return None };
        let filter = template.resolve(values, self.kind.permission)?;
        Some(Arc::new(Decider::new(filter, false, self.kind.clone())))
    }

    /// Whether the rule is about publishing.
    pub(super) fn is_about_publishing(&self) -> bool {
        self.action != Action::Subscribe
    }

    /// Whether the rule is about subscribing.
    pub(super) fn is_about_subscribing(&self) -> bool {
        self.action != Action::Publish
    }

    pub(super) fn permission(&self) -> Permission {
        self.kind.permission
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The topic as the rule has it.
    pub(super) fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The rule in words, with the client's values in place: `allow subscribe "dev/dev1/#"  (from dev/${clientid}/#)`.
    pub(super) fn words(&self, values: &Values<'_>) -> String {
        let permission = match self.kind.permission {
            Permission::Allow => "allow",
            Permission::Deny => "deny",
        };
        let action = match self.action {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
            Action::All => "publish and subscribe",
        };
        let pattern = self.pattern.to_string();
        let lacks = matches!(&self.pattern, Pattern::Template(template) if template.lacks_a_value(values));
        let topic = match self.resolve(values) {
            _ if self.fixed.is_some() => format!("{pattern:?}"),
            Some(decider) if lacks => {
                format!("{:?}  (from {}: no usable value, so any)", decider.filter.to_string(), pattern.escape_debug())
            }
            Some(decider) => format!("{:?}  (from {})", decider.filter.to_string(), pattern.escape_debug()),
            None => format!("nothing  (from {}: no usable value)", pattern.escape_debug()),
        };
        format!("{permission} {action} {topic}{}", self.kind.words())
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
    pub(super) fn concerns_qos(&self, qos: QoS) -> bool {
        self.qos & 1 << qos as u8 != 0
    }

    pub(super) fn concerns_retain(&self, retain: bool) -> bool {
        self.retain.is_none_or(|only| only == retain)
    }

    pub(super) fn concerns_share(&self, share: Option<&str>) -> bool {
        match (&self.share, share) {
            (None, _) => true,
            (Some(Share::Any(shared)), share) => *shared == share.is_some(),
            (Some(Share::Groups(groups)), Some(share)) => groups.iter().any(|group| group == share),
            (Some(Share::Groups(_)), None) => false,
        }
    }

    /// `0 and 1`
    pub(super) fn qos_words(&self) -> String {
        let levels: Vec<String> =
            (0..3).filter(|level| self.qos & 1 << level != 0).map(|level| level.to_string()).collect();
        levels.join(" and ")
    }

    fn words(&self) -> String {
        let qos = if self.qos == ALL_QOS { String::new() } else { format!(", QoS {}", self.qos_words()) };
        let retain = match self.retain {
            None => "",
            Some(true) => ", retained only",
            Some(false) => ", not retained",
        };
        let share = match &self.share {
            None => String::new(),
            Some(Share::Any(true)) => ", shared only".to_owned(),
            Some(Share::Any(false)) => ", not shared".to_owned(),
            Some(Share::Groups(groups)) => format!(", shared in {}", groups.join(" or ").escape_debug()),
        };
        format!("{qos}{retain}{share}")
    }
}

impl Decider {
    fn new(filter: Filter, exact: bool, kind: Kind) -> Self {
        let (head, mask) =
            filter.beginning().bytes().take(8).enumerate().fold((0, 0), |(head, mask), (index, byte)| {
                (head | u64::from(byte) << (8 * index), mask | 0xff_u64 << (8 * index))
            });
        let beginning = filter.beginning();
        let end = beginning.as_bytes().last_chunk::<8>().filter(|_| beginning.len() > 8);
        let (end, end_at) = end.map_or((0, 0), |end| (u64::from_le_bytes(*end), beginning.len() as u32 - 8));
        Self { head, mask, end, end_at, kind, filter, exact }
    }

    /// Whether the rule decides about a publication; `head` is that of the topic.
    fn decides_publication(&self, head: u64, topic: &str, qos: QoS, retain: bool) -> bool {
        head & self.mask == self.head
            && self.has_end(topic)
            && self.kind.concerns_qos(qos)
            && self.kind.concerns_retain(retain)
            && self.has_topic(topic)
    }

    /// Whether the topic has the eight bytes where they have to be.
    fn has_end(&self, topic: &str) -> bool {
        let rest = topic.as_bytes().get(self.end_at as usize..);
        let found = || rest.and_then(|rest| rest.first_chunk::<8>()).map(|end| u64::from_le_bytes(*end));
        self.end_at == 0 || found() == Some(self.end)
    }

    fn decision(&self) -> Decision {
        Decision { allowed: self.kind.permission == Permission::Allow, layer: self.kind.layer }
    }

    /// Whether the rule is about the topic.
    pub(super) fn has_topic(&self, topic: &str) -> bool {
        !self.exact && self.filter.matches(topic)
    }

    fn decides_subscription(&self, asked: &Filter<&str>, share: Option<&str>, qos: QoS) -> bool {
        self.kind.concerns_qos(qos) && self.kind.concerns_share(share) && self.has_filter(asked)
    }

    /// Whether the rule is about the filter: an allow covers it, a deny has a topic in common with it.
    pub(super) fn has_filter<T: Deref<Target = str>>(&self, asked: &Filter<T>) -> bool {
        match (self.exact, self.kind.permission) {
            (true, _) => self.filter.is(asked),
            (false, Permission::Allow) => self.filter.covers(asked),
            (false, Permission::Deny) => self.filter.overlaps(asked),
        }
    }
}

/// The first bytes of a topic, as [`Decider`] compares them.
fn head(topic: &str) -> u64 {
    let bytes = topic.as_bytes();
    if let Some(first) = bytes.first_chunk::<8>() {
        return u64::from_le_bytes(*first);
    }
    let mut first = [0; 8];
    first[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(first)
}

/// What a client may publish and subscribe. Cheap to clone; the same for as long as nobody asks [`super::Policy`] again.
/// Equal ones decide alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
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
            &Values { client_id: "", username: None, subject: None, claims: &ClaimValues::default() },
        )
    }

    /// The rules, in the order in which they decide, for one client.
    pub(super) fn from_statements<'a>(statements: impl Iterator<Item = &'a Statement>, values: &Values<'_>) -> Self {
        let (mut publish, mut subscribe) = (Vec::new(), Vec::new());
        for statement in statements {
            let Some(decider) = statement.resolve(values) else { continue };
            if statement.is_about_publishing() {
                publish.push(Arc::clone(&decider));
            }
            if statement.is_about_subscribing() {
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
        self.decide_publish(topic, qos, retain).allowed
    }

    /// As [`Self::may_publish`], with where the rule stands.
    pub fn decide_publish(&self, topic: &str, qos: QoS, retain: bool) -> Decision {
        let Inner::Rules { publish, .. } = &*self.0 else { return Decision::NO };
        let head = head(topic);
        let decider = publish.iter().find(|decider| decider.decides_publication(head, topic, qos, retain));
        decider.filter(|_| is_open(topic)).map_or(Decision::NO, |decider| decider.decision())
    }

    /// Whether the client may subscribe to the filter, given without `$share/…/`, directly or as a member of a group. An
    /// allow rule must cover the filter; a deny rule need only have a topic in common with it. Allocates nothing.
    pub fn may_subscribe(&self, filter: &str, share: Option<&str>, qos: QoS) -> bool {
        self.decide_subscribe(filter, share, qos).allowed
    }

    /// As [`Self::may_subscribe`], with where the rule stands.
    pub fn decide_subscribe(&self, filter: &str, share: Option<&str>, qos: QoS) -> Decision {
        let subscribe = match &*self.0 {
            Inner::Rules { subscribe, .. } => subscribe,
            Inner::Bridge { topics } => {
                let shared = share.is_none_or(|group| group == BRIDGE_GROUP);
                let allowed = shared && topics.iter().any(|topic| topic == filter);
                return Decision { allowed, layer: Layer::Bridge };
            }
        };
        let Ok(asked) = Filter::read(filter) else { return Decision::NO };
        if first_level(filter) == "$share" {
            return Decision::NO;
        }
        let decider = subscribe.iter().find(|decider| decider.decides_subscription(&asked, share, qos));
        decider.map_or(Decision::NO, |decider| decider.decision())
    }
}

/// Whether clients may publish there at all: no rule opens the broker's own topics.
pub(super) fn is_open(topic: &str) -> bool {
    !topic.starts_with('$') || !matches!(first_level(topic), "$SYS" | "$CONTROL" | "$share")
}

pub(super) fn first_level(topic: &str) -> &str {
    topic.split('/').next().unwrap_or(topic)
}

#[cfg(test)]
mod tests;

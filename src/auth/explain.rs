//! Why a client may, or may not, do what it asks for: every rule that was considered, and the one that decided.
//!
//! Nothing here decides. The rules are gone through again, in the order of [`Policy`], with the tests that
//! [`super::Grants`] decides with, so that what is told is what happens. That costs allocations, and is for what was
//! refused and for people who ask.

use std::fmt::{self, Display, Write as _};
use std::sync::Arc;

use super::Policy;
use super::filter::Filter;
use super::grants::{BRIDGE_GROUP, Decider, Statement, first_level, is_open};
use super::identity::{Identity, Principal};
use super::rule::{Permission, Share};
use super::template::Values;
use crate::mqtt::{QoS, topic};

/// Bytes of the longest [`reason`].
pub const MAX_REASON: usize = 200;

/// Where a list of rules stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// `spec.auth.deny`
    Deny,
    /// The token's own rules.
    Token,
    /// The user's own rules.
    User,
    Group(&'a str),
    /// `spec.auth.anonymous`
    Anonymous,
}

/// The rules that concern one client, in the order in which they decide.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub values: Values<'a>,
    pub lists: Vec<(Source<'a>, &'a [Statement])>,
}

impl<'a> Rules<'a> {
    pub fn statements(&self) -> impl Iterator<Item = &'a Statement> {
        self.lists.iter().flat_map(|(_, rules)| *rules)
    }

    /// Each rule with its place in its list.
    fn places(&self) -> impl Iterator<Item = (Place<'a>, &'a Statement)> {
        let place = |source: Source<'a>| move |(index, rule)| (Place { source, index }, rule);
        self.lists.iter().flat_map(move |(source, rules)| rules.iter().enumerate().map(place(*source)))
    }
}

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Publish,
    Subscribe,
    Will,
}

impl Verb {
    /// As in rules, logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Will => "will",
        }
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub verb: Verb,
    /// The topic; for a subscription the filter as the client sends it, `$share/…/` included.
    pub topic: &'a str,
    pub qos: QoS,
    /// The RETAIN flag; says nothing about a subscription.
    pub retain: bool,
}

/// Where a rule stands. Shown as `deny[0]`, `token rule 1`, `group raspberry rule 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub source: Source<'a>,
    pub index: usize,
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.index + 1;
        match self.source {
            Source::Deny => write!(f, "deny[{}]", self.index),
            Source::Token => write!(f, "token rule {number}"),
            Source::User => write!(f, "user rule {number}"),
            Source::Group(name) => write!(f, "group {name} rule {number}"),
            Source::Anonymous => write!(f, "anonymous rule {number}"),
        }
    }
}

/// What one rule has to say about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Say {
    /// It decides. With a deny of a subscription: a topic that is in both.
    Decides(Option<String>),
    /// A value in it cannot be used, so that it allows nothing.
    NoValue,
    OtherQos,
    OtherRetain,
    OtherShare,
    /// Another topic; with an allow of a subscription: a topic that is asked for and outside.
    Elsewhere(Option<String>),
}

/// A rule that was asked.
#[derive(Debug)]
struct Considered<'a> {
    place: Place<'a>,
    rule: &'a Statement,
    decider: Option<Arc<Decider>>,
    say: Say,
}

/// Why the answer does not depend on a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Beforehand {
    /// The text is no topic, or no filter.
    Malformed(String),
    /// Clients never publish to this topic.
    Closed(String),
    /// The client is not known to the policy.
    Unknown(Principal),
    /// The bridge may subscribe to the topics of telemetry, and publishes nothing.
    Bridge(bool),
}

/// The answer to a request, and how it came about. Shown, it is several lines without a line feed at the end.
#[derive(Debug)]
pub struct Explanation<'a> {
    request: Request<'a>,
    policy: &'a Policy,
    identity: &'a Identity,
    client_id: &'a str,
    now: u64,
    beforehand: Option<Beforehand>,
    considered: Vec<Considered<'a>>,
    allowed: bool,
}

/// Explains, at `now` in seconds of Unix time, what the policy says to a request of a client.
pub fn explain<'a>(
    policy: &'a Policy,
    identity: &'a Identity,
    client_id: &'a str,
    request: Request<'a>,
    now: u64,
) -> Explanation<'a> {
    let mut explanation = consider(policy, identity, client_id, request);
    explanation.now = now;
    explanation
}

/// The rules of a client in the order in which they decide, one line each, with its values in place.
pub fn effective_rules(policy: &Policy, identity: &Identity, client_id: &str) -> Vec<String> {
    let Some(rules) = policy.rules(identity, client_id) else { return Vec::new() };
    rules.places().map(|(place, rule)| format!("{place}  {}", rule.words(&rules.values))).collect()
}

/// Why a request is refused, in one line of at most [`MAX_REASON`] bytes: the short form of [`explain`].
pub fn reason(policy: &Policy, identity: &Identity, client_id: &str, request: Request<'_>) -> String {
    consider(policy, identity, client_id, request).short()
}

fn consider<'a>(
    policy: &'a Policy,
    identity: &'a Identity,
    client_id: &'a str,
    request: Request<'a>,
) -> Explanation<'a> {
    let rules = policy.rules(identity, client_id);
    let mut explanation = Explanation {
        request,
        policy,
        identity,
        client_id,
        now: 0,
        beforehand: None,
        considered: Vec::new(),
        allowed: false,
    };
    let asked = match Asked::of(&request) {
        Ok(asked) => asked,
        Err(problem) => {
            explanation.beforehand = Some(Beforehand::Malformed(problem));
            return explanation;
        }
    };
    match (rules, &asked) {
        (None, asked) if identity.credential.is_bridge() => {
            explanation.allowed = match asked {
                Asked::Filter(_, filter, share) => {
                    share.is_none_or(|group| group == BRIDGE_GROUP)
                        && policy.bridge_topics().unwrap_or_default().iter().any(|topic| topic == filter)
                }
                Asked::Topic(_) => false,
            };
            explanation.beforehand = Some(Beforehand::Bridge(explanation.allowed));
        }
        (None, _) => explanation.beforehand = Some(Beforehand::Unknown(identity.principal.clone())),
        (Some(_), Asked::Topic(topic)) if !is_open(topic) => {
            explanation.beforehand = Some(Beforehand::Closed(first_level(topic).to_owned()));
        }
        (Some(rules), asked) => {
            explanation.considered = ask(&rules, asked, &request);
            explanation.allowed = explanation.deciding().is_some_and(|it| it.permission() == Permission::Allow);
        }
    }
    explanation
}

/// A request, read.
enum Asked<'a> {
    Topic(&'a str),
    /// The filter and its text, both without `$share/…/`, and the name of the group.
    Filter(Filter, &'a str, Option<&'a str>),
}

impl<'a> Asked<'a> {
    fn of(request: &Request<'a>) -> Result<Self, String> {
        let text = request.topic;
        if request.verb != Verb::Subscribe {
            return topic::check_name(text).map(|()| Self::Topic(text)).map_err(|problem| problem.to_string());
        }
        let parsed = topic::Filter::parse(text).map_err(|problem| problem.to_string())?;
        if first_level(parsed.filter) == "$share" {
            return Err("a shared subscription is not shared again".to_owned());
        }
        let filter = Filter::parse(parsed.filter).map_err(|problem| format!("the filter {problem}"))?;
        Ok(Self::Filter(filter, parsed.filter, parsed.share))
    }
}

/// Asks the rules in their order, up to the one that decides.
fn ask<'a>(rules: &Rules<'a>, asked: &Asked<'_>, request: &Request<'_>) -> Vec<Considered<'a>> {
    let mut considered = Vec::new();
    for (place, rule) in rules.places() {
        let concerns = match asked {
            Asked::Topic(_) => rule.is_about_publishing(),
            Asked::Filter(..) => rule.is_about_subscribing(),
        };
        if !concerns {
            continue;
        }
        let decider = rule.resolve(&rules.values);
        let say = decider.as_ref().map_or(Say::NoValue, |decider| say(decider, asked, request));
        let decides = matches!(say, Say::Decides(_));
        considered.push(Considered { place, rule, decider, say });
        if decides {
            break;
        }
    }
    considered
}

/// What a rule has to say. The topic comes first, because another topic is what most rules are about.
fn say(decider: &Decider, asked: &Asked<'_>, request: &Request<'_>) -> Say {
    let kind = &decider.kind;
    let (share, witness) = match asked {
        Asked::Topic(topic) if !decider.has_topic(topic) => return Say::Elsewhere(None),
        Asked::Topic(_) => (None, None),
        Asked::Filter(filter, ..) if !decider.has_filter(filter) => {
            let outside = kind.permission == Permission::Allow && !decider.exact;
            return Say::Elsewhere(outside.then(|| decider.filter.witness_outside(filter)).flatten());
        }
        Asked::Filter(filter, _, share) => {
            let both = kind.permission == Permission::Deny;
            (*share, both.then(|| decider.filter.witness_of_overlap(filter)).flatten())
        }
    };
    if !kind.concerns_qos(request.qos) {
        Say::OtherQos
    } else if matches!(asked, Asked::Topic(_)) && !kind.concerns_retain(request.retain) {
        Say::OtherRetain
    } else if matches!(asked, Asked::Filter(..)) && !kind.concerns_share(share) {
        Say::OtherShare
    } else {
        Say::Decides(witness)
    }
}

impl Considered<'_> {
    fn permission(&self) -> Permission {
        self.rule.permission()
    }

    fn filter(&self) -> Option<&Filter> {
        self.decider.as_ref().map(|decider| &decider.filter)
    }

    /// Why the rule decides, or does not.
    fn why(&self, verb: Verb) -> String {
        let subscribes = verb == Verb::Subscribe;
        let exact = self.decider.as_ref().is_some_and(|decider| decider.exact);
        match &self.say {
            Say::Decides(Some(witness)) => format!("decides: {witness:?} is in both"),
            Say::Decides(None) if subscribes && !exact => "decides: covers the filter".to_owned(),
            Say::Decides(None) if subscribes => "decides: is the filter".to_owned(),
            Say::Decides(None) => "decides: matches the topic".to_owned(),
            Say::Elsewhere(Some(witness)) => format!("does not cover the filter: {witness:?} is outside"),
            Say::Elsewhere(None) if exact => "is about this very filter and no other".to_owned(),
            Say::Elsewhere(None) if subscribes => "no overlap".to_owned(),
            Say::Elsewhere(None) => "does not match the topic".to_owned(),
            Say::NoValue => "allows nothing".to_owned(),
            Say::OtherQos => format!("is about QoS {} only", self.rule.kind().qos_words()),
            Say::OtherRetain if self.rule.kind().retain == Some(true) => "is about retained messages only".to_owned(),
            Say::OtherRetain => "is not about retained messages".to_owned(),
            Say::OtherShare => match &self.rule.kind().share {
                Some(Share::Any(false)) => "is not about shared subscriptions".to_owned(),
                Some(Share::Groups(groups)) => format!("is about share {} only", groups.join(" and ").escape_debug()),
                _ => "is about shared subscriptions only".to_owned(),
            },
        }
    }
}

impl Explanation<'_> {
    /// The answer.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    fn deciding(&self) -> Option<&Considered<'_>> {
        self.considered.last().filter(|last| matches!(last.say, Say::Decides(_)))
    }

    /// The rule that decided, if one did.
    pub fn deciding_rule(&self) -> Option<Place<'_>> {
        self.deciding().map(|considered| considered.place)
    }

    /// A topic that shows why a subscription is refused: in the filter and outside the rule that allows most of it, or
    /// in the filter and in the rule that forbids it.
    pub fn witness(&self) -> Option<&str> {
        if self.allowed {
            return None;
        }
        let considered = self.deciding().or_else(|| self.nearest())?;
        match &considered.say {
            Say::Decides(witness) | Say::Elsewhere(witness) => witness.as_deref(),
            _ => None,
        }
    }

    /// Of the rules that allow something else, the one that comes next to allowing this.
    fn nearest(&self) -> Option<&Considered<'_>> {
        let allows = || self.considered.iter().filter(|it| it.permission() == Permission::Allow);
        let overlaps = |considered: &&Considered<'_>| match (Asked::of(&self.request), considered.filter()) {
            (Ok(Asked::Filter(asked, ..)), Some(filter)) => filter.overlaps(&asked),
            _ => false,
        };
        allows()
            .find(|it| matches!(it.say, Say::OtherQos | Say::OtherRetain | Say::OtherShare))
            .or_else(|| allows().find(overlaps))
            .or_else(|| allows().find(|it| it.decider.is_some()))
            .or_else(|| allows().next())
    }

    /// The answer and its reason in one line of at most [`MAX_REASON`] bytes.
    pub fn short(&self) -> String {
        let mut text = String::new();
        let verb = self.request.verb;
        let told = match (&self.beforehand, self.deciding(), self.nearest()) {
            (Some(beforehand), ..) => write!(text, "{beforehand}"),
            (None, Some(it), _) => {
                let filter = it.filter().map(ToString::to_string).unwrap_or_default();
                let does = if it.permission() == Permission::Allow { "allows" } else { "forbids" };
                match &it.say {
                    Say::Decides(Some(both)) if *both != filter => {
                        write!(text, "{} {does} {filter:?}: {both:?} is in both", it.place)
                    }
                    _ => write!(text, "{} {does} {filter:?}", it.place),
                }
            }
            (None, None, Some(near)) => {
                let filter = near.filter().map_or_else(|| near.rule.pattern().to_string(), ToString::to_string);
                let why = near.why(verb);
                match &near.say {
                    Say::Elsewhere(Some(outside)) => {
                        write!(text, "no rule allows it: {} allows {filter:?}, {outside:?} is outside", near.place)
                    }
                    Say::Elsewhere(None) => write!(text, "no rule allows it: {} allows {filter:?}", near.place),
                    _ => write!(text, "no rule allows it: {}, {filter:?}, {why}", near.place),
                }
            }
            (None, None, None) => write!(text, "no rule allows it: none is about {}", self.about()),
        };
        told.expect("a String takes whatever is written");
        shorten(text)
    }

    fn about(&self) -> &'static str {
        if self.request.verb == Verb::Subscribe { "subscribing" } else { "publishing" }
    }
}

/// Cuts a text to [`MAX_REASON`] bytes, between characters.
fn shorten(mut text: String) -> String {
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Display for Beforehand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(problem) => f.write_str(problem),
            Self::Closed(level) => write!(f, "clients never publish to {level}/…: these topics are the broker's own"),
            Self::Unknown(Principal::Anonymous) => f.write_str("anonymous clients are not allowed here"),
            Self::Unknown(Principal::User(name)) => write!(f, "there is no user {name:?} here"),
            Self::Unknown(_) => f.write_str("the client is not known here"),
            Self::Bridge(true) => f.write_str("a topic of spec.telemetry.topics"),
            Self::Bridge(false) => {
                f.write_str("the bridge may subscribe to the filters of spec.telemetry.topics, and nothing else")
            }
        }
    }
}

mod show;

#[cfg(test)]
mod tests;

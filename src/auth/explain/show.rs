//! An explanation as people read it.

use std::fmt::{self, Display};

use super::{Asked, Beforehand, Explanation, Request, Source, Verb};
use crate::auth::identity::{Credential, Principal};
use crate::auth::rule::Permission;
use crate::mqtt::QoS;

impl Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_allowed() { "ALLOW" } else { "DENY" };
        write!(f, "{verdict} {} {:?}{}", self.request.verb.name(), self.request.topic, self.flags())?;
        writeln!(f, "  client={}{}", self.client_id.escape_debug(), self.who())?;
        let values = self.policy.rules(self.identity, self.client_id).map(|rules| rules.values);
        for (considered, values) in self.considered.iter().zip(std::iter::repeat(values).flatten()) {
            let (place, rule) = (considered.place, considered.rule.words(&values));
            writeln!(f, "  {place}  {rule}   {}", considered.why(self.request.verb))?;
        }
        match (&self.beforehand, self.deciding()) {
            (Some(beforehand), _) => write!(f, "  {beforehand}")?,
            (None, Some(considered)) if self.is_allowed() => write!(f, "  {} allows it", considered.place)?,
            (None, Some(considered)) => write!(f, "  {} forbids it", considered.place)?,
            (None, None) => write!(f, "  no rule allows it")?,
        }
        if self.is_allowed() {
            return Ok(());
        }
        write!(f, "\n  sent: {}", self.sent())?;
        self.fix().map_or(Ok(()), |fix| write!(f, "     fix: {fix}"))
    }
}

impl Explanation<'_> {
    /// QoS and RETAIN, where they are not the usual ones.
    fn flags(&self) -> String {
        let qos = match self.request.qos {
            QoS::AtMostOnce => String::new(),
            qos => format!(" qos={}", qos as u8),
        };
        let retain = self.request.retain && self.request.verb != Verb::Subscribe;
        format!("{qos}{}", if retain { " retain" } else { "" })
    }

    /// ` user=dev1 cred=jwt kid=9f3a… exp=in 41m`
    fn who(&self) -> String {
        let user = match &self.identity.principal {
            Principal::User(name) => name.clone(),
            Principal::Anonymous => "-".to_owned(),
            other => other.to_string(),
        };
        let kid = self
            .identity
            .key_id()
            .filter(|kid| !kid.is_empty())
            .map(|kid| format!(" kid={}", short_kid(kid)))
            .unwrap_or_default();
        let expires = self.identity.expires_at.map(|at| format!(" exp={}", distance(at, self.now)));
        format!(" user={} cred={}{kid}{}", user.escape_debug(), self.identity.method(), expires.unwrap_or_default())
    }

    /// What the client gets to see.
    fn sent(&self) -> &'static str {
        let malformed = matches!(self.beforehand, Some(Beforehand::Malformed(_)));
        match (self.request.verb, self.request.qos) {
            (Verb::Publish | Verb::Subscribe, _) if malformed => "DISCONNECT (v5) | connection closed (3.1.1)",
            (Verb::Subscribe, _) => "SUBACK 0x87 (v5) | 0x80 (3.1.1)",
            (Verb::Will, _) if malformed || self.request.topic.starts_with('$') => "CONNACK 0x90 (v5) | 5 (3.1.1)",
            (Verb::Will, _) => "CONNACK 0x87 (v5) | 5 (3.1.1)",
            (Verb::Publish, QoS::AtMostOnce) => "nothing; closed when denyBudget is spent, DISCONNECT 0x87 (v5)",
            (Verb::Publish, QoS::AtLeastOnce) => {
                "PUBACK 0x87 (v5) | PUBACK, and closed when denyBudget is spent (3.1.1)"
            }
            (Verb::Publish, QoS::ExactlyOnce) => {
                "PUBREC 0x87 (v5) | PUBREC, and closed when denyBudget is spent (3.1.1)"
            }
        }
    }

    /// What would make it work.
    fn fix(&self) -> Option<String> {
        match &self.beforehand {
            None => {}
            Some(Beforehand::Unknown(Principal::Anonymous)) => {
                return Some("spec.auth.anonymous.acl with an allow, or give the client credentials".to_owned());
            }
            Some(_) => return None,
        }
        let instead = self.instead();
        if let Some(considered) = self.deciding() {
            let first = match considered.place.source {
                Source::Deny => "nothing stands before spec.auth.deny".to_owned(),
                _ => format!("take {} out, or put an allow before it", considered.place),
            };
            return Some(instead.map_or_else(|| first.clone(), |instead| format!("{instead}; {first}")));
        }
        let filter = match Asked::of(&self.request) {
            Ok(Asked::Filter(_, filter, _)) => filter,
            _ => self.request.topic,
        };
        let verb = self.verb();
        let rule = format!("an allow of {verb} {filter:?}");
        let rule = match (&self.identity.credential, &self.identity.principal) {
            // Only our own tokens are made with flags.
            (Credential::Token(token), _) if token.issuer.is_some() => {
                format!("{rule} in a group that the token is in")
            }
            (Credential::Token(_), _) => {
                format!("issue the token with --{verb} '{}'", filter.replace('\'', r"'\''"))
            }
            (_, Principal::User(name)) => format!("{rule} in the acl of user {name} or of a group"),
            _ => format!("{rule} in spec.auth.anonymous.acl"),
        };
        Some(instead.map_or_else(|| rule.clone(), |instead| format!("{rule}, or {instead}")))
    }

    /// What the client may do that comes next to what it asked for.
    fn instead(&self) -> Option<String> {
        let Request { verb, qos, retain, .. } = self.request;
        // The least change first: another QoS, the other RETAIN, both.
        let with = |retain| {
            let levels = [qos, QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter();
            levels.map(move |qos| Request { qos, retain, ..self.request })
        };
        let other_retain = (verb != Verb::Subscribe).then(|| with(!retain));
        let other = with(retain).chain(other_retain.into_iter().flatten()).find(|other| self.allows(*other));
        if let Some(other) = other {
            let level = (other.qos != qos).then(|| format!("with QoS {}", other.qos as u8));
            let flag = (other.retain != retain).then_some(if retain { "without RETAIN" } else { "with RETAIN" });
            let how: Vec<&str> = level.as_deref().into_iter().chain(flag).collect();
            return Some(format!("{} {}", self.verb(), how.join(" and ")));
        }
        let Ok(Asked::Filter(asked, _, share)) = Asked::of(&self.request) else { return None };
        let rules = self.policy.rules(self.identity, self.client_id)?;
        let allows = rules.statements().filter(|it| it.permission() == Permission::Allow && it.is_about_subscribing());
        let narrower = allows.filter_map(|rule| {
            let decider = rule.resolve(&rules.values).filter(|decider| !decider.exact)?;
            let filter = decider.filter.intersection(&asked)?;
            Some(share.map_or_else(|| filter.to_string(), |group| format!("$share/{group}/{filter}")))
        });
        let found = narrower.into_iter().find(|topic| self.allows(Request { verb, topic, qos, retain }))?;
        Some(format!("subscribe to {found}"))
    }

    fn allows(&self, request: Request<'_>) -> bool {
        super::consider(self.policy, self.identity, self.client_id, request).is_allowed()
    }

    /// The action of a rule that is about this.
    fn verb(&self) -> &'static str {
        if self.request.verb == Verb::Subscribe { "subscribe" } else { "publish" }
    }
}

fn short_kid(kid: &str) -> String {
    match kid.char_indices().nth(8) {
        Some((end, _)) => format!("{}…", &kid[..end]),
        None => kid.to_owned(),
    }
}

/// `in 41m`, `12s ago`
fn distance(at: u64, now: u64) -> String {
    let words = |seconds: u64| match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    };
    if at > now { format!("in {}", words(at - now)) } else { format!("{} ago", words(now - at)) }
}

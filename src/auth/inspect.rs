//! What a token says, in words, for people. Needs no key, and so proves nothing.

use std::fmt::{self, Display};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::grants::Statement;
use super::json;
use super::rule::Rule;
use super::template::Values;
use super::token::{self, Expected, TokenError, duration};

/// A token, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    /// When the token was issued and until when it is valid, one line each.
    pub times: Vec<String>,
    /// What the broker knows of its key, where that can be asked.
    pub key: Option<String>,
    /// The rules as they decide, one line each, with the values that the token has for the placeholders.
    pub rules: Vec<String>,
    /// Why a broker would refuse the token whatever its keys are; what its issuer and audience are worth is not known.
    pub problem: Option<String>,
}

/// Takes a token apart at `now`, in seconds of Unix time. The rules are read from the claim `acl_claim`.
pub fn inspect(token: &str, acl_claim: &str, now: u64) -> Result<Inspection, TokenError> {
    let malformed = |text: &str| TokenError::Unverified(text.to_owned());
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, _] = parts.as_slice() else { return Err(malformed("the token has not three parts")) };
    let part = |text: &str, what: &str| {
        let bytes =
            URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed(&format!("the token's {what} is not base64url")))?;
        json::object(&bytes).map_err(|error| malformed(&format!("read the token's {what}: {error}")))
    };
    let (header, claims) = (part(header, "header")?, part(payload, "payload")?);
    let problem = problem(token, &header, &claims, acl_claim, now);
    Ok(Inspection { times: times(&claims, now), key: None, rules: rules(&claims, acl_claim), problem, header, claims })
}

fn problem(
    token: &str,
    header: &Map<String, Value>,
    claims: &Map<String, Value>,
    acl_claim: &str,
    now: u64,
) -> Option<String> {
    if token.len() > token::MAX_TOKEN {
        return Some("the token is longer than 8 KiB".to_owned());
    }
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    let audience = claims.get("aud").and_then(|aud| aud.as_str().or_else(|| aud.get(0)?.as_str())).unwrap_or_default();
    let expected = Expected { issuer, audience, max_ttl: u64::MAX, acl_claim };
    let header = token::read_header(header);
    let checked = header.and_then(|(kid, _)| {
        let kid = token::own_kid(kid.as_deref())?.to_owned();
        token::read_claims(claims, kid, &expected, now)
    });
    checked.err().map(|error| error.to_string())
}

fn times(claims: &Map<String, Value>, now: u64) -> Vec<String> {
    let line = |(claim, what): (&str, &str)| {
        let value = claims.get(claim)?;
        let Some(seconds) = value.as_u64() else {
            return Some(format!("{what:<11} {value} is not a number of seconds"));
        };
        let distance = if seconds > now {
            format!("in {}", duration(seconds - now))
        } else {
            format!("{} ago", duration(now - seconds))
        };
        let at = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        Some(format!("{what:<11} {} ({distance})", at.map_or_else(|| seconds.to_string(), |at| at.to_string())))
    };
    [("iat", "issued"), ("nbf", "not before"), ("exp", "expires")].into_iter().filter_map(line).collect()
}

fn rules(claims: &Map<String, Value>, acl_claim: &str) -> Vec<String> {
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let subject = text("sub");
    let values = Values {
        client_id: text("client_id").unwrap_or("<clientid>"),
        username: text("username").or(subject),
        subject,
        claims: &claims.into(),
    };
    match token::acl_rules(claims.get(acl_claim), acl_claim) {
        Ok(rules) => rules.iter().map(|rule| describe(rule, &values)).collect(),
        Err(error) => vec![error.to_string()],
    }
}

/// One rule in words.
fn describe(rule: &Rule, values: &Values<'_>) -> String {
    match Statement::compile(rule) {
        Ok(statement) => statement.words(values),
        Err(error) => format!("{:?} ({error})", rule.topic),
    }
}

impl Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = |object: &Map<String, Value>| serde_json::to_string_pretty(object).map_err(|_| fmt::Error);
        writeln!(f, "header {}", object(&self.header)?)?;
        writeln!(f, "claims {}", object(&self.claims)?)?;
        for line in &self.times {
            writeln!(f, "{line}")?;
        }
        if let Some(key) = &self.key {
            writeln!(f, "key         {key}")?;
        }
        for (index, rule) in self.rules.iter().enumerate() {
            writeln!(f, "rule {:<6} {rule}", index + 1)?;
        }
        match &self.problem {
            Some(problem) => write!(f, "refused     {problem}"),
            None => write!(f, "signature   not checked: that takes the broker's keys"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key::{Algorithm, generate};
    use crate::auth::token::{Claims, issue};

    const NOW: u64 = 1_763_800_000;

    fn token(acl: &str, exp: u64) -> String {
        let claims = Claims {
            iss: "mqttbroker/shop/home".to_owned(),
            aud: "mqtt://shop/home".to_owned(),
            sub: "dev1".to_owned(),
            iat: NOW - 600,
            exp,
            acl: serde_json::from_str(acl).unwrap(),
            ..Claims::default()
        };
        issue(&generate(Algorithm::EdDsa, &[1; 48]).unwrap(), &claims)
    }

    #[test]
    fn a_token_is_told_in_words_without_its_key() {
        let acl = r#"[{"permission":"allow","action":"publish","topic":"sensor/${sub}/#","qos":[0,1],"retain":false},
                      {"permission":"deny","action":"all","topic":"a","qos":2},
                      {"permission":"allow","action":"subscribe","topic":"cmd/${clientid}/+","share":["g"]},
                      {"permission":"allow","action":"publish","topic":"x/${claims.none}"}]"#;
        let inspection = inspect(&token(acl, NOW + 3600), "acl", NOW).unwrap();
        assert_eq!(
            inspection.times,
            ["issued      2025-11-22T08:16:40Z (10 min ago)", "expires     2025-11-22T09:26:40Z (in 60 min)"]
        );
        assert_eq!(
            inspection.rules,
            [
                r#"allow publish "sensor/dev1/#"  (from sensor/${sub}/#), QoS 0 and 1, not retained"#,
                r#"deny publish and subscribe "a", QoS 2"#,
                r#"allow subscribe "cmd/<clientid>/+"  (from cmd/${clientid}/+), shared in g"#,
                "allow publish nothing  (from x/${claims.none}: no usable value)",
            ]
        );
        assert_eq!(inspection.problem, None);
        let text = inspection.to_string();
        assert!(text.contains(r#""alg": "EdDSA""#) && text.contains("not checked"), "{text}");
    }

    #[test]
    fn an_expired_token_is_told_to_be_refused() {
        let inspection = inspect(&token("[]", NOW - 12), "acl", NOW).unwrap();
        assert_eq!(inspection.problem.as_deref(), Some("token expired 12 s ago"));
    }

    #[test]
    fn what_is_no_token_is_an_error() {
        for text in ["", "a", "a.b", "a.b.c", "....", "e30.e30", "eyJhIjoxfQ.x.y"] {
            assert!(inspect(text, "acl", NOW).is_err(), "{text:?}");
        }
        assert!(inspect("e30.e30.", "acl", NOW).unwrap().problem.is_some());
    }
}

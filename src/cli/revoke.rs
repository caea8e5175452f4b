//! `mqttctl token revoke`: takes tokens back before they expire, with an entry in the Secret `<name>-revocations` or in
//! the state of an `up`.

use std::io;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::{Value, json};

use super::audit;
use super::target::{Target, Where};
use super::{now, say};
use crate::api::MqttBroker;
use crate::auth::inspect::inspect;
use crate::auth::revocations::{Entry, parse_time};
use crate::auth::settings::Jwt;
use crate::auth::token::DEFAULT_ACL_CLAIM;
use crate::config::broker::Broker;
use crate::local;
use crate::local::state;
use crate::operator;
use crate::plan::{self, Names};

/// How often a change is tried when somebody else changes the Secret at the same time.
const TRIES: u32 = 8;

pub const EXAMPLES: &str = "Examples:
  mqttctl token revoke \"$(cat dev1.jwt)\"        this one token
  mqttctl token revoke - < dev1.jwt             the same, without the token among the arguments
  mqttctl token revoke --jti 01JD…              the token with this id
  mqttctl token revoke --sub dev1               every token that dev1 has got until now; it may get a new one
  mqttctl token revoke --before now             every token that was issued until now
  mqttctl token revoke --before 2026-01-31T12:00:00Z

Clients that are connected with such a token are disconnected; within seconds here, within 15 s in a
cluster. The entry goes by itself when the token has expired anyway. Tokens of another issuer: --issuer.";

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(false).args(["token", "jti", "sub", "before"]))]
pub struct Revoke {
    /// The token itself, or `-` for standard input
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
    /// The token with this `jti`
    #[arg(long, value_name = "ID")]
    jti: Option<String>,
    /// All tokens that this subject has got until now
    #[arg(long, value_name = "NAME")]
    sub: Option<String>,
    /// All tokens that this broker's keys have signed until this time: RFC 3339, seconds since 1970, or `now`
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// The `iss` of a foreign issuer, with --jti or --sub
    #[arg(long, value_name = "ISSUER", conflicts_with_all = ["token", "before"])]
    issuer: Option<String>,
}

/// Takes back what the flags say.
pub async fn run(flags: Revoke, wanted: Where) -> anyhow::Result<()> {
    let target = wanted.find().await?;
    let jwt = match &target {
        Target::Local(home) => {
            let config: Option<Broker> = state::read_json(&home.etc().broker())?;
            config.context("there is no broker yet; start it once with `mqttctl up`")?.auth.jwt
        }
        Target::Cluster { object, .. } => plan::plan(object).context("what the object asks for")?.broker.auth.jwt,
    };
    let (entry, time) = entry(&flags, &jwt, now()?, || io::read_to_string(io::stdin()))?;
    let name = entry.name()?;
    match &target {
        Target::Local(home) => local::revocations::add(home, &name, time)?,
        Target::Cluster { client, namespace, object, .. } => add(client, namespace, object, &name, time).await?,
    }
    audit::revoked_tokens(&target, &name, time);
    say(match &entry {
        Entry::Token(id) => format!("revoked: the token {id}"),
        Entry::Subject(subject) => {
            format!("revoked: every token that {subject} has got by {}; a new one is accepted", moment(time))
        }
        Entry::Before => format!("revoked: every token issued by {}; new ones are accepted", moment(time)),
    })
}

fn moment(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

/// What is to be written, and the time in it. `input` gives standard input where the token is `-`.
fn entry(
    flags: &Revoke,
    jwt: &Jwt,
    now: u64,
    input: impl FnOnce() -> io::Result<String>,
) -> anyhow::Result<(Entry, u64)> {
    let of = |name: &str| match &flags.issuer {
        Some(issuer) if *issuer != jwt.issuer => format!("{issuer}#{name}"),
        _ => name.to_owned(),
    };
    if let Some(token) = &flags.token {
        let token = if token == "-" { input().context("read the token from standard input")? } else { token.clone() };
        return of_token(token.trim(), jwt, now);
    }
    if let Some(id) = &flags.jti {
        // Nothing is known of it but that it cannot outlive the longest one that is accepted.
        return Ok((Entry::Token(of(id)), now.saturating_add(jwt.max_token_ttl)));
    }
    if let Some(subject) = &flags.sub {
        return Ok((Entry::Subject(of(subject)), now));
    }
    let text = flags.before.as_deref().unwrap_or("now");
    let time = if text == "now" {
        Some(now)
    } else {
        let time = text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_second()).ok());
        time.or_else(|| text.parse().ok())
    };
    let time = time.with_context(|| format!("--before {text}: write a time such as 2026-01-31T12:00:00Z, or now"))?;
    if time > now {
        bail!("--before {text} is in the future: no token would be accepted until then; use `now`");
    }
    Ok((Entry::Before, time))
}

fn of_token(token: &str, jwt: &Jwt, now: u64) -> anyhow::Result<(Entry, u64)> {
    let claims = inspect(token, DEFAULT_ACL_CLAIM, now)?.claims;
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty());
    let issuer = text("iss").filter(|issuer| *issuer != jwt.issuer);
    let Some(id) = text("jti") else {
        let subject = text("sub").unwrap_or("NAME");
        bail!(
            "the token has no `jti`, by which it could be named; take back all that its subject has: --sub {subject}"
        );
    };
    let id = issuer.map_or_else(|| id.to_owned(), |issuer| format!("{issuer}#{id}"));
    let expires = claims.get("exp").and_then(Value::as_u64).unwrap_or_else(|| now.saturating_add(jwt.max_token_ttl));
    if expires <= now {
        bail!("the token has expired; nothing accepts it any more");
    }
    Ok((Entry::Token(id), expires))
}

/// Writes the entry into the Secret, which is made where it is not there. An entry never loses what it refused before.
async fn add(client: &Client, namespace: &str, object: &MqttBroker, entry: &str, time: u64) -> anyhow::Result<()> {
    let name = Names::new(&object.name_any()).revocations;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let right = || format!("write Secret {namespace}/{name}; that takes the rights to get, create and patch it");
    for _ in 0..TRIES {
        let found = secrets.get_opt(&name).await.with_context(right)?;
        let before = found.as_ref().and_then(|secret| secret.data.as_ref()?.get(entry));
        let before = before.and_then(|content| parse_time(entry, &content.0).ok());
        let content = ByteString(before.map_or(time, |before| before.max(time)).to_string().into_bytes());
        let written = match found {
            None => {
                let secret = Secret {
                    metadata: metadata(object, namespace, &name),
                    type_: Some("Opaque".into()),
                    data: Some([(entry.to_owned(), content)].into()),
                    ..Secret::default()
                };
                secrets.create(&PostParams::default(), &secret).await
            }
            Some(secret) => {
                let version = secret.resource_version();
                let patch = json!({"metadata": {"resourceVersion": version}, "data": {entry: content}});
                secrets.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await
            }
        };
        match written {
            Ok(_) => return Ok(()),
            // Somebody else has written meanwhile: their entry stays, and ours joins it.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(anyhow::Error::new(error).context(right())),
        }
    }
    bail!("Secret {namespace}/{name} changes all the time; try again")
}

/// As the operator's own children have it, so that the Secret goes with its object.
fn metadata(object: &MqttBroker, namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(operator::labels_of(&object.name_any())),
        owner_references: object.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::auth::key::{Algorithm, generate};
    use crate::auth::token::{Claims, issue};

    const NOW: u64 = 1_763_800_000;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        revoke: Revoke,
    }

    fn jwt() -> Jwt {
        Jwt { issuer: "mqttbroker/shop/home".into(), max_token_ttl: 1000, ..Jwt::default() }
    }

    fn written(arguments: &[&str]) -> Result<(String, u64), String> {
        let cli = Cli::try_parse_from([&["revoke"], arguments].concat()).map_err(|error| error.to_string())?;
        let (entry, time) = entry(&cli.revoke, &jwt(), NOW, || Ok("x".into())).map_err(|error| format!("{error:#}"))?;
        Ok((entry.name().unwrap(), time))
    }

    fn token(iss: &str, jti: Option<&str>, exp: u64) -> String {
        let key = generate(Algorithm::EdDsa, &[4; 48]).unwrap();
        let claims =
            Claims { iss: iss.into(), sub: "dev1".into(), jti: jti.map(str::to_owned), exp, ..Claims::default() };
        issue(&key, &claims)
    }

    #[test]
    fn flags_become_entries() {
        assert_eq!(written(&["--jti", "a/b"]), Ok(("jti.a_2fb".into(), NOW + 1000)));
        assert_eq!(written(&["--sub", "dev1"]), Ok(("sub.dev1".into(), NOW)));
        assert_eq!(written(&["--sub", "d", "--issuer", "https://i"]), Ok(("sub.https_3a_2f_2fi_23d".into(), NOW)));
        assert_eq!(written(&["--sub", "d", "--issuer", "mqttbroker/shop/home"]), Ok(("sub.d".into(), NOW)));
        assert_eq!(written(&["--before", "now"]), Ok(("before".into(), NOW)));
        assert_eq!(written(&["--before", "2025-01-01T00:00:00Z"]), Ok(("before".into(), 1_735_689_600)));
        assert_eq!(written(&["--before", "1735689600"]), Ok(("before".into(), 1_735_689_600)));
        let token = token("mqttbroker/shop/home", Some("01J"), NOW + 5);
        assert_eq!(written(&[&token]), Ok(("jti.01J".into(), NOW + 5)));
    }

    #[test]
    fn a_token_of_another_issuer_is_named_with_it() {
        let token = token("https://i", Some("1"), NOW + 5);
        assert_eq!(written(&[&token]), Ok(("jti.https_3a_2f_2fi_231".into(), NOW + 5)));
    }

    #[test]
    fn what_cannot_be_taken_back_says_what_can() {
        let own = "mqttbroker/shop/home";
        assert!(written(&[&token(own, None, NOW + 5)]).unwrap_err().ends_with("--sub dev1"));
        assert!(written(&[&token(own, Some("1"), NOW)]).unwrap_err().contains("has expired"));
        assert!(written(&["--before", "2099-01-01T00:00:00Z"]).unwrap_err().contains("in the future"));
        assert!(written(&["--before", "yesterday"]).unwrap_err().contains("2026-01-31T12:00:00Z"));
        assert!(written(&["x"]).unwrap_err().contains("three parts"));
        for arguments in [&[][..], &["--jti", "a", "--sub", "b"], &["x", "--sub", "b"], &["x", "--issuer", "i"]] {
            assert!(written(arguments).is_err(), "{arguments:?}");
        }
    }
}

//! `mqttctl token`: makes a token from a key that is handed in, and tells what a token says.

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use ulid::Ulid;

use super::audit;
use super::rules::{Rules, Told};

use crate::auth::explain::effective_rules;
use crate::auth::inspect::inspect;
use crate::auth::key::{KeyRecord, PrivateKey};
use crate::auth::rule::{Action, Permission, QosSet, Rule};
use crate::auth::settings::Jwt;
use crate::auth::token::{self, Claims, Expected, TokenError};
use crate::auth::{Presented, Refusal};

/// What the token is to say.
#[derive(Args, Clone, Debug)]
pub struct IssueArgs {
    /// Who the token is for; the user name that may be presented with it
    #[arg(long, value_name = "NAME")]
    pub sub: String,
    /// The only client id that the token is good for [default: any]
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// How long the token is good for: 90s, 15m, 12h, 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    pub ttl: u64,
    /// A filter of topics that may be published to; more than once for several
    #[arg(long, value_name = "FILTER")]
    pub publish: Vec<String>,
    /// A filter that may be subscribed to; more than once for several
    #[arg(long, value_name = "FILTER")]
    pub subscribe: Vec<String>,
    /// The levels of QoS of these publications and subscriptions [default: all]
    #[arg(long, value_name = "QOS", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: Vec<u8>,
    /// Publications may not be retained
    #[arg(long)]
    pub no_retain: bool,
    /// A group of the object whose rules apply; more than once for several
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// What is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "token")]
    pub output: Output,
}

/// How a token is printed.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// The token alone
    #[default]
    Token,
    /// The token and its claims, as JSON
    Json,
    /// Lines for a shell or an env file
    Env,
    /// Arguments of `mosquitto_pub` and `mosquitto_sub`
    Mosquitto,
}

/// Which token is told about.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// The token, `-` for standard input, or @FILE
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// The claim that carries the rules [default: that of the broker, else `acl`]
    #[arg(long, value_name = "CLAIM")]
    pub acl_claim: Option<String>,
    /// The client id that `${clientid}` stands for [default: that of the token, else its subject]
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
}

/// Which token is verified.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The token, `-` for standard input, or @FILE
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// The client id that comes with it [default: that of the token, else its subject]
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
}

/// Seconds from a text such as `90s`, `15m`, `12h`, `30d`.
pub fn parse_ttl(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a time such as 90s, 15m, 12h or 30d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|seconds| (1..=100 * 365 * 86_400).contains(seconds)).ok_or_else(wrong)
}

/// A token for the broker that asks for `jwt`, printed as asked for. `now` is Unix time in seconds; `random` makes the
/// token's id.
pub fn issue(args: &IssueArgs, key: &PrivateKey, jwt: &Jwt, now: u64, random: [u8; 16]) -> anyhow::Result<String> {
    if args.ttl > jwt.max_token_ttl {
        let (asked, most) = (token::duration(args.ttl), token::duration(jwt.max_token_ttl));
        bail!("--ttl: the broker accepts tokens that live for at most {most}, not {asked}");
    }
    let claims = Claims {
        iss: jwt.issuer.clone(),
        aud: jwt.audience.clone(),
        sub: args.sub.clone(),
        iat: now,
        nbf: Some(now),
        exp: now.checked_add(args.ttl).context("the token would never expire")?,
        jti: Some(Ulid::from_parts(now.saturating_mul(1000), u128::from_be_bytes(random)).to_string()),
        client_id: args.client_id.clone(),
        username: None,
        groups: args.group.clone(),
        acl: rules(args),
        acl_claim: jwt.acl_claim.clone(),
    };
    let token = token::issue(key, &claims);
    // What no broker would accept is not handed out: a bad filter, an empty subject, a token that is too long.
    if let Some(problem) = inspect(&token, Expected::from(jwt).acl_claim, now).context("read the token back")?.problem {
        bail!("no broker would accept this token: {problem}");
    }
    audit::minted(key, &claims);
    Ok(match args.output {
        Output::Token => token,
        Output::Json => {
            serde_json::to_string_pretty(&serde_json::json!({"token": token, "claims": claims.to_object()}))?
        }
        Output::Env => {
            let client_id = args.client_id.as_ref().map(|id| format!("MQTT_CLIENT_ID={}\n", quote(id)));
            let username = quote(&args.sub);
            format!("{}MQTT_USERNAME={username}\nMQTT_PASSWORD={token}", client_id.unwrap_or_default())
        }
        Output::Mosquitto => {
            let client_id = args.client_id.as_ref().map(|id| format!("-i {} ", quote(id)));
            format!("{}-u {} -P {token}", client_id.unwrap_or_default(), quote(&args.sub))
        }
    })
}

fn rules(args: &IssueArgs) -> Vec<Rule> {
    let qos = (!args.qos.is_empty()).then(|| QosSet::Many(args.qos.clone()));
    let rule = |action, topic: &String, retain| Rule {
        permission: Permission::Allow,
        action,
        topic: topic.clone(),
        qos: qos.clone(),
        retain,
        share: None,
    };
    let retain = args.no_retain.then_some(false);
    let publish = args.publish.iter().map(|topic| rule(Action::Publish, topic, retain));
    publish.chain(args.subscribe.iter().map(|topic| rule(Action::Subscribe, topic, None))).collect()
}

/// A word as a shell takes it.
pub fn quote(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:@".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A token from an argument: the token itself, `-` for standard input, or `@FILE`.
pub fn read(argument: &str) -> anyhow::Result<String> {
    let text = match (argument, argument.strip_prefix('@')) {
        ("-", _) => std::io::read_to_string(std::io::stdin()).context("read the token from standard input")?,
        (_, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("read the token from {file}"))?,
        (token, None) => token.to_owned(),
    };
    Ok(text.trim().to_owned())
}

/// A token as MQTT 5 presents it.
pub fn presented<'a>(token: &'a [u8], client_id: &'a str) -> Presented<'a> {
    Presented { method: Some("JWT"), data: Some(token), client_id, ..Presented::default() }
}

/// Whether the broker would accept a token at `now`: what it finds, or why not, and the exit code.
pub fn verify(token: &str, client_id: Option<&str>, rules: &Rules, now: u64) -> anyhow::Result<(String, u8)> {
    let says = |refusal: Refusal| {
        let Refusal { code, return_code, log, why, .. } = refusal;
        format!(
            "refused   {log}\nsent      CONNACK {:#04x} (v5) | {return_code} (3.1.1)\nnext      {}",
            code.0,
            why.next_step()
        )
    };
    if !rules.has_keys {
        bail!("the public keys cannot be read, so the token cannot be verified");
    }
    let claims = inspect(token, &rules.settings.jwt.acl_claim, now).map(|it| it.claims).unwrap_or_default();
    let client_id = match (client_id, rules.policy.verify_token(token.as_bytes(), now)) {
        (Some(id), _) => id.to_owned(),
        (None, Ok(verified)) => verified.client_ids().first().cloned().unwrap_or_else(|| verified.subject.clone()),
        (None, Err(TokenError::UnknownKey { .. })) => self::client_id(&claims),
        (None, Err(error)) => return Ok((says(error.into()), 1)),
    };
    Ok(match rules.judge(&presented(token.as_bytes(), &client_id), &claims, now)? {
        Told::Accepted(identity) => {
            let expires = identity.expires_at.map(|at| token::duration(at.saturating_sub(now))).unwrap_or_default();
            let kid = identity.key_id().unwrap_or_default();
            let text = format!(
                "accepted  {} as client {client_id:?}\nkey       {kid}\nexpires   in {expires}",
                identity.principal
            );
            (text, 0)
        }
        Told::Refused(refusal) => (says(refusal), 1),
        Told::Unknown { words, .. } => (format!("cannot tell: {words}"), 2),
    })
}

/// What a token says, in words; more of it where the broker's rules are at hand.
pub fn tell(args: &InspectArgs, rules: Option<&Rules>, now: u64) -> anyhow::Result<String> {
    let token = read(&args.token)?;
    let usual = rules.map_or(token::DEFAULT_ACL_CLAIM, |rules| Expected::from(&rules.settings.jwt).acl_claim);
    let mut inspection = inspect(&token, args.acl_claim.as_deref().unwrap_or(usual), now)?;
    if let Some(rules) = rules {
        inspection.key = inspection.header.get("kid").and_then(|kid| kid.as_str()).map(|kid| key(kid, rules, now));
        let client_id = args.client_id.clone().unwrap_or_else(|| client_id(&inspection.claims));
        let presented = presented(token.as_bytes(), &client_id);
        let bearer = rules.policy.assume(&inspection.claims, &presented, when_valid(&inspection.claims, now));
        match bearer {
            Ok(identity) => inspection.rules = effective_rules(&rules.policy, &identity, &client_id),
            Err(refusal) => inspection.problem = inspection.problem.or(Some(refusal.log)),
        }
    }
    Ok(inspection.to_string())
}

/// What is known of a key.
fn key(kid: &str, rules: &Rules, now: u64) -> String {
    let record = rules.states.iter().flat_map(|states| &states.keys).find(|record| record.kid == kid);
    if let Some(KeyRecord { state, since, .. }) = record {
        let state = format!("{state:?}").to_lowercase();
        return format!("{kid}, {state} for {}", token::duration(now.saturating_sub(*since)));
    }
    let loaded = rules.policy.key_ids().iter().any(|it| it == kid);
    let loaded = loaded || rules.policy.foreign_keys().any(|(_, it, _)| it == kid);
    format!("{kid}, {}", if loaded { "one of the broker's" } else { "none of the broker's" })
}

/// The client id that goes with a token when none is given.
pub fn client_id(claims: &Map<String, Value>) -> String {
    let ids = claims.get("client_id");
    let id = ids.and_then(|ids| ids.as_str().or_else(|| ids.get(0)?.as_str()));
    id.or_else(|| claims.get("sub")?.as_str()).unwrap_or("client").to_owned()
}

/// A time at which a token is valid, `now` if it is.
pub fn when_valid(claims: &Map<String, Value>, now: u64) -> u64 {
    let seconds = |claim: &str| claims.get(claim).and_then(Value::as_u64);
    let starts = seconds("iat").max(seconds("nbf")).unwrap_or(0);
    now.min(seconds("exp").unwrap_or(u64::MAX).saturating_sub(1)).max(starts)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::auth::key::{Algorithm, PrivateKeys, generate};
    use crate::auth::revocations::{Entry, Revocations};
    use crate::auth::token::verify;
    use crate::auth::{KeySet, Policy, Sources, settings};

    const NOW: u64 = 1_763_800_000;

    fn jwt() -> Jwt {
        Jwt {
            issuer: "mqttbroker/shop/home".to_owned(),
            audience: "mqtt://shop/home".to_owned(),
            max_token_ttl: 86_400,
            bind_client_id: false,
            acl_claim: "acl".to_owned(),
        }
    }

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: IssueArgs,
    }

    fn parse(arguments: &[&str]) -> Result<IssueArgs, clap::Error> {
        Cli::try_parse_from([&["token"], arguments].concat()).map(|cli| cli.args)
    }

    fn key() -> PrivateKey {
        generate(Algorithm::EdDsa, &[4; 48]).unwrap()
    }

    fn issued(arguments: &[&str]) -> anyhow::Result<String> {
        issue(&parse(arguments)?, &key(), &jwt(), NOW, [1; 16])
    }

    #[test]
    fn an_issued_token_is_one_that_the_broker_accepts() {
        let token =
            issued(&["--sub", "dev1", "--publish", "dev/${clientid}/#", "--subscribe", "cmd/#", "--group", "g"])
                .unwrap();
        let keys = KeySet::parse(PrivateKeys { keys: vec![key()] }.public().as_bytes()).unwrap();
        let jwt = jwt();
        let expected = Expected::from(&jwt);
        let verified = verify(token.as_bytes(), &keys, &expected, NOW + 3599).unwrap();
        assert_eq!((verified.subject.as_str(), verified.expires_at), ("dev1", NOW + 3600));
        assert!(verify(token.as_bytes(), &keys, &expected, NOW + 3600).is_err());
    }

    #[test]
    fn flags_become_rules() {
        let args = ["--sub", "d", "--publish", "a", "--subscribe", "b", "--qos", "0,1", "--no-retain", "-o", "json"];
        let json: serde_json::Value = serde_json::from_str(&issued(&args).unwrap()).unwrap();
        assert_eq!(
            json["claims"]["acl"],
            serde_json::json!([
                {"permission": "allow", "action": "publish", "topic": "a", "qos": [0, 1], "retain": false},
                {"permission": "allow", "action": "subscribe", "topic": "b", "qos": [0, 1]},
            ])
        );
    }

    #[test]
    fn a_token_that_no_broker_would_accept_is_not_issued() {
        for args in [
            &["--sub", "d", "--publish", "a/#/b"][..],
            &["--sub", "d", "--subscribe", "${nope}"],
            &["--sub", ""],
            &["--sub", "system:bridge"],
            &["--sub", "d", "--client-id", ""],
        ] {
            let error = issued(args).unwrap_err().to_string();
            assert!(error.starts_with("no broker would accept this token: token: "), "{error}");
        }
        let long = "x".repeat(9000);
        assert!(issued(&["--sub", "d", "--publish", &long]).unwrap_err().to_string().contains("longer than 8 KiB"));
    }

    #[test]
    fn a_token_whose_key_only_the_broker_fetches_cannot_be_told_unless_something_else_is_wrong() {
        let issuer = "https://idp.example";
        let keys = settings::IssuerKeys::Url {
            url: "https://idp.example/keys".to_owned(),
            allow_private: false,
            own_authorities: false,
        };
        let foreign = settings::Issuer {
            issuer: issuer.to_owned(),
            audiences: vec!["mqtt".to_owned()],
            keys,
            algorithms: vec![Algorithm::EdDsa],
            acl_claim: String::new(),
            max_token_ttl: 3600,
            mapping: settings::Mapping::default(),
            groups: vec![],
        };
        let settings = settings::Settings { jwt: jwt(), issuers: vec![foreign], ..Default::default() };
        let revocations = [(Entry::Token(format!("{issuer}#back")).name().unwrap(), (NOW + 60).to_string())];
        let revocations = revocations.iter().map(|(name, until)| (name.as_str(), until.as_bytes()));
        let sources = Sources { revocations: Revocations::parse(revocations).unwrap(), ..Sources::default() };
        let policy = Policy::new(&settings, sources).unwrap();
        let rules = Rules { settings, policy, has_keys: true, states: None };
        let token = |aud: &str, id: &str, exp| {
            let claims = Claims {
                iss: issuer.to_owned(),
                aud: aud.to_owned(),
                sub: "alice".to_owned(),
                iat: exp - 60,
                exp,
                jti: Some(id.to_owned()),
                ..Claims::default()
            };
            token::issue(&key(), &claims)
        };
        let told = |token: &str| super::verify(token, None, &rules, NOW).unwrap();
        let (words, code) = told(&token("mqtt", "1", NOW + 60));
        assert_eq!(code, 2, "{words}");
        assert!(words.contains("https://idp.example/keys") && words.contains("denies --client alice"), "{words}");
        for (token, why) in [
            (token("mqtt", "1", NOW - 12), "expired 12 s ago"),
            (token("others", "1", NOW + 60), "`aud`"),
            (token("mqtt", "back", NOW + 60), "revoked"),
        ] {
            let (words, code) = told(&token);
            assert!(code == 1 && words.contains(why), "{code}: {words}");
        }
    }

    #[test]
    fn a_token_that_would_live_longer_than_the_broker_accepts_is_not_issued() {
        assert!(issued(&["--sub", "d", "--ttl", "24h"]).is_ok());
        let error = issued(&["--sub", "d", "--ttl", "2d"]).unwrap_err().to_string();
        assert_eq!(error, "--ttl: the broker accepts tokens that live for at most 24 h, not 2 d");
    }

    #[test]
    fn outputs_can_be_pasted() {
        let token = issued(&["--sub", "it's"]).unwrap();
        assert_eq!(
            issued(&["--sub", "it's", "-o", "env"]).unwrap(),
            format!("MQTT_USERNAME='it'\\''s'\nMQTT_PASSWORD={token}")
        );
        let args = ["--sub", "dev1", "--client-id", "dev 1", "-o", "mosquitto"];
        assert!(issued(&args).unwrap().starts_with("-i 'dev 1' -u dev1 -P eyJ"));
    }

    #[test]
    fn times_to_live_have_a_unit() {
        let ttl = |text: &str| parse(&["--sub", "d", "--ttl", text]).map(|args| args.ttl).ok();
        assert_eq!([ttl("90s"), ttl("15m"), ttl("1h"), ttl("30d")], [Some(90), Some(900), Some(3600), Some(2_592_000)]);
        for text in ["", "1", "h", "0h", "-1h", "1w", "1.5h", "99999999999999999999d", "999999999999d", "1 h", "1ä"] {
            assert_eq!(ttl(text), None, "{text:?}");
        }
        assert_eq!(parse(&["--sub", "d"]).unwrap().ttl, 3600);
        assert!(parse(&["--sub", "d", "--qos", "3"]).is_err() && parse(&[]).is_err());
    }

    #[test]
    fn a_token_is_told_from_the_argument_or_from_a_file() {
        let token = issued(&["--sub", "dev1", "--publish", "a/${sub}"]).unwrap();
        let args = |token: &str| InspectArgs { token: token.to_owned(), acl_claim: None, client_id: None };
        let told = tell(&args(&token), None, NOW).unwrap();
        assert!(told.contains(r#"allow publish "a/dev1""#) && told.contains("(in 60 min)"), "{told}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("{token}\n")).unwrap();
        assert_eq!(tell(&args(&format!("@{}", file.path().display())), None, NOW).unwrap(), told);
        assert!(tell(&args("x"), None, NOW).is_err() && tell(&args("@/nowhere"), None, NOW).is_err());
    }
}

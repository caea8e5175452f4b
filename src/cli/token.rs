//! `mqttctl token`: makes a token from a key that is handed in, and tells what a token says.

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use ulid::Ulid;

use crate::auth::inspect::inspect;
use crate::auth::key::PrivateKey;
use crate::auth::rule::{Action, Permission, QosSet, Rule};
use crate::auth::settings::Jwt;
use crate::auth::token::{self, Claims, Expected};

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
    /// The token, or `-` for standard input
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// The claim that carries the rules
    #[arg(long, value_name = "CLAIM", default_value = token::DEFAULT_ACL_CLAIM)]
    pub acl_claim: String,
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
fn quote(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:@".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// What a token says, in words. `input` gives standard input where the argument is `-`.
pub fn tell(args: &InspectArgs, input: impl FnOnce() -> std::io::Result<String>, now: u64) -> anyhow::Result<String> {
    let token = match args.token.as_str() {
        "-" => input().context("read the token from standard input")?,
        token => token.to_owned(),
    };
    Ok(inspect(token.trim(), &args.acl_claim, now)?.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::auth::KeySet;
    use crate::auth::key::{Algorithm, PrivateKeys, generate};
    use crate::auth::token::verify;

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
    fn a_token_is_told_from_the_argument_or_from_standard_input() {
        let token = issued(&["--sub", "dev1", "--publish", "a/${sub}"]).unwrap();
        let args = |token: &str| InspectArgs { token: token.to_owned(), acl_claim: "acl".to_owned() };
        let told = tell(&args(&token), || panic!("not asked"), NOW).unwrap();
        assert!(told.contains(r#"allow publish "a/dev1""#) && told.contains("(in 60 min)"), "{told}");
        assert_eq!(tell(&args("-"), || Ok(format!("{token}\n")), NOW).unwrap(), told);
        assert!(tell(&args("x"), || panic!("not asked"), NOW).is_err());
    }
}

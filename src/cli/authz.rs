//! `mqttctl authz`: why a client may, or may not, do something, and policies that are tested like programs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::rules::{self, From, Rules, Told};
use super::target::Where;
use super::token::{client_id, presented, when_valid};
use super::{block_on, chain, now, say, token};
use crate::auth::explain::{Explanation, Request, Verb as Wish, explain};
use crate::auth::inspect::inspect;
use crate::auth::{Identity, Refusal};
use crate::mqtt::QoS;

const EXPLAIN_EXAMPLES: &str = "Examples:
  mqttctl authz explain --token @dev1.jwt subscribe 'dev/+/temp'
  mqttctl authz explain --user alice --client alice-phone publish home/door --qos 1 --retain
  mqttctl authz explain -f broker.yaml --anonymous subscribe '#'

Exit code: 0 it is allowed, 1 it is denied, 2 it cannot be told, as with a token of an issuer whose
keys only the broker fetches. With -f there are no keys, and so a token is believed without its signature.";

const TEST_EXAMPLES: &str = "Examples:
  mqttctl authz test policy-tests.yaml -f broker.yaml

A file of cases; `user`, `token` (its claims) or `anonymous: true` says who asks:
  cases:
    - {user: alice, action: subscribe, topic: 'home/#', expect: allow}
    - {token: {sub: dev1, groups: [sensors]}, action: publish, topic: dev/dev2/t, expect: deny}
    - {anonymous: true, client: screen, action: will, topic: [a, b], qos: 1, retain: true, expect: deny}

Exit code: 0 all are as expected, 1 some are not, 2 they cannot be run.";

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Why a client may, or may not, publish or subscribe
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(Explain),
    /// Run the cases of a file against the rules
    #[command(after_help = TEST_EXAMPLES)]
    Test(Test),
}

#[derive(Args, Debug)]
pub struct Explain {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    who: Who,
    /// The client id [default: that of the token, else the name]
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    #[command(subcommand)]
    asks: Asks,
}

/// Who asks.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Who {
    /// The bearer of a token: the token, `-` for standard input, or @FILE
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// A user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A client without credentials
    #[arg(long)]
    anonymous: bool,
}

#[derive(Debug, Subcommand)]
enum Asks {
    /// May it publish to this topic?
    Publish {
        topic: String,
        #[command(flatten)]
        how: How,
    },
    /// May it subscribe to this filter?
    Subscribe {
        filter: String,
        /// The level of QoS
        #[arg(long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
        qos: u8,
    },
    /// May it have its will published to this topic?
    Will {
        topic: String,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args, Debug)]
struct How {
    /// The level of QoS
    #[arg(long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// With the RETAIN flag
    #[arg(long)]
    retain: bool,
}

#[derive(Args, Debug)]
pub struct Test {
    /// The cases
    cases: PathBuf,
    /// What is printed: what is not as expected, or all of it as JUnit's XML
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    from: From,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Junit,
}

/// What came of it is the exit code: 0 or 1, and 2 where it cannot be told.
pub fn run(verb: Verb, wanted: &Where) -> ExitCode {
    let mut code = 2;
    let result = block_on(async {
        code = match verb {
            Verb::Explain(flags) => tell(flags, wanted).await?,
            Verb::Test(flags) => test(&flags, wanted).await?,
        };
        Ok(())
    });
    match result {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mqttctl: {}", chain(&error));
            ExitCode::from(2)
        }
    }
}

async fn tell(flags: Explain, wanted: &Where) -> anyhow::Result<u8> {
    let rules = rules::find(&flags.from, wanted).await?;
    let now = now()?;
    let asking = asking(&flags.who, flags.client, &rules, now)?;
    let (verb, topic, qos, retain) = match &flags.asks {
        Asks::Publish { topic, how } => (Wish::Publish, topic, how.qos, how.retain),
        Asks::Subscribe { filter, qos } => (Wish::Subscribe, filter, *qos, false),
        Asks::Will { topic, how } => (Wish::Will, topic, how.qos, how.retain),
    };
    let request = Request { verb, topic, qos: level(qos)?, retain };
    let explanation = explain(&rules.policy, &asking.identity, &asking.client_id, request, now);
    let client = asking.client_id.escape_debug();
    match &asking.connects {
        Connects::Yes => {}
        Connects::No(Refusal { code, return_code, log, why, .. }) => {
            say(format_args!("DENY connect  client={client}: {log}"))?;
            say(format_args!("  sent: CONNACK {:#04x} (v5) | {return_code} (3.1.1)", code.0))?;
            say(format_args!("  next: {}", why.next_step()))?;
            say("If it were let in:")?;
        }
        Connects::Unknown(words) => {
            say(format_args!("CANNOT TELL connect  client={client}: {words}"))?;
            say("If its signature is right:")?;
        }
    }
    say(&explanation)?;
    Ok(match asking.connects {
        Connects::Yes => u8::from(!explanation.is_allowed()),
        Connects::No(_) => 1,
        // What is denied whoever has signed it is denied.
        Connects::Unknown(_) if !explanation.is_allowed() => 1,
        Connects::Unknown(_) => 2,
    })
}

fn level(qos: u8) -> anyhow::Result<QoS> {
    Ok(match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => bail!("{qos} is not a level of QoS; there are 0, 1 and 2"),
    })
}

/// A client that asks.
struct Asking {
    identity: Identity,
    client_id: String,
    connects: Connects,
}

/// Whether a client would be let in.
enum Connects {
    Yes,
    No(Refusal),
    /// Why that cannot be told, and what to do.
    Unknown(String),
}

fn asking(who: &Who, client: Option<String>, rules: &Rules, now: u64) -> anyhow::Result<Asking> {
    let known =
        |identity, client_id: &str| Asking { identity, client_id: client_id.to_owned(), connects: Connects::Yes };
    if let Some(name) = &who.user {
        return Ok(known(user(name, rules)?, client.as_deref().unwrap_or(name)));
    }
    let Some(token) = &who.token else {
        return Ok(known(Identity::anonymous(), client.as_deref().unwrap_or("anonymous")));
    };
    let token = token::read(token)?;
    let claims = inspect(&token, &rules.settings.jwt.acl_claim, now).context("read the token")?.claims;
    let client_id = client.unwrap_or_else(|| client_id(&claims));
    let presented = presented(token.as_bytes(), &client_id);
    let told = if rules.has_keys {
        rules.judge(&presented, &claims, now)?
    } else {
        eprintln!("mqttctl: there are no keys here, so the token's signature is not checked");
        rules.policy.assume(&claims, &presented, now).map_or_else(Told::Refused, Told::Accepted)
    };
    let refused = match told {
        Told::Accepted(identity) => return Ok(Asking { identity, client_id, connects: Connects::Yes }),
        Told::Unknown { bearer, words } => {
            return Ok(Asking { identity: bearer, client_id, connects: Connects::Unknown(words) });
        }
        Told::Refused(refusal) => refusal,
    };
    // A token is most often asked about when it is refused; what its rules say is still worth knowing.
    let identity = rules.policy.assume(&claims, &presented, when_valid(&claims, now));
    let identity = identity.map_err(|worse| anyhow::anyhow!("{}: what it may do cannot be told", worse.log))?;
    Ok(Asking { identity, client_id, connects: Connects::No(refused) })
}

fn user(name: &str, rules: &Rules) -> anyhow::Result<Identity> {
    if !rules.settings.users.iter().any(|user| user.name == name) {
        let names: Vec<&str> = rules.settings.users.iter().map(|user| user.name.as_str()).collect();
        bail!("there is no user {name:?} here; there are: {}", names.join(", "));
    }
    Ok(Identity::of_user(name))
}

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    user: Option<String>,
    /// Claims; `iss`, `aud`, `iat` and `exp` are filled in.
    token: Option<Map<String, Value>>,
    #[serde(default)]
    anonymous: bool,
    client: Option<String>,
    action: Action,
    topic: Topics,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retain: bool,
    expect: Expect,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Publish,
    Subscribe,
    Will,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Topics {
    One(String),
    Several(Vec<String>),
}

async fn test(flags: &Test, wanted: &Where) -> anyhow::Result<u8> {
    let path = flags.cases.display();
    let text = std::fs::read_to_string(&flags.cases).with_context(|| format!("read {path}"))?;
    let file = read_cases(&text).with_context(|| format!("{path}"))?;
    let rules = rules::find(&flags.from, wanted).await?;
    let answers = judge(&file, &rules, now()?)?;
    if answers.is_empty() {
        bail!("{path}: there is nothing to ask");
    }
    let wrong = answers.iter().filter(|answer| answer.wrong.is_some()).count();
    match flags.output {
        Output::Text => {
            for Answer { name, wrong } in &answers {
                wrong.iter().try_for_each(|explanation| say(format_args!("{name}: {explanation}")))?;
            }
            say(format_args!("{path}: {} asked, {wrong} not as expected", answers.len()))?;
        }
        Output::Junit => say(junit(&path.to_string(), &answers))?,
    }
    Ok(u8::from(wrong > 0))
}

/// The answers as build servers read them.
fn junit(file: &str, answers: &[Answer]) -> String {
    let wrong = answers.iter().filter(|answer| answer.wrong.is_some()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{wrong}\">\n",
        xml_text(file),
        answers.len()
    );
    for Answer { name, wrong } in answers {
        let name = xml_text(name);
        let case = match wrong {
            None => format!("  <testcase name=\"{name}\"/>\n"),
            Some(why) => format!("  <testcase name=\"{name}\"><failure>{}</failure></testcase>\n", xml_text(why)),
        };
        xml.push_str(&case);
    }
    xml + "</testsuite>"
}

/// A text between tags or quotes. Control characters have no place in XML.
fn xml_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push('\n'),
            other if other.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

fn read_cases(text: &str) -> anyhow::Result<File> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
        anyhow::anyhow!("{line}{}", error.without_snippet().to_string().replace('\n', " "))
    })
}

/// What came of one question.
struct Answer {
    /// The case and what it asks for.
    name: String,
    /// Why the answer is another than expected, if it is.
    wrong: Option<String>,
}

/// Asks what the cases ask.
fn judge(file: &File, rules: &Rules, now: u64) -> anyhow::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for (index, case) in file.cases.iter().enumerate() {
        let at =
            || format!("case {}{}", index + 1, case.name.as_ref().map(|it| format!(" ({it})")).unwrap_or_default());
        let (identity, client_id) = bearer(case, rules, now).with_context(at)?;
        let topics = match &case.topic {
            Topics::One(topic) => std::slice::from_ref(topic),
            Topics::Several(topics) => topics,
        };
        for topic in topics {
            let verb = match case.action {
                Action::Publish => Wish::Publish,
                Action::Subscribe => Wish::Subscribe,
                Action::Will => Wish::Will,
            };
            let request = Request { verb, topic, qos: level(case.qos).with_context(at)?, retain: case.retain };
            let explanation = explain(&rules.policy, &identity, &client_id, request, now);
            let expected = if case.expect == Expect::Allow { "allow" } else { "deny" };
            let wrong = answer(&explanation) != case.expect;
            answers.push(Answer {
                name: format!("{}, {} {topic:?}", at(), verb.name()),
                wrong: wrong.then(|| format!("expected {expected}\n{explanation}")),
            });
        }
    }
    Ok(answers)
}

fn answer(explanation: &Explanation<'_>) -> Expect {
    if explanation.is_allowed() { Expect::Allow } else { Expect::Deny }
}

/// Who asks in a case, and under which client id.
fn bearer(case: &Case, rules: &Rules, now: u64) -> anyhow::Result<(Identity, String)> {
    let client = || case.client.clone();
    match (&case.user, &case.token, case.anonymous) {
        (Some(name), None, false) => Ok((user(name, rules)?, client().unwrap_or_else(|| name.clone()))),
        (None, None, true) => Ok((Identity::anonymous(), client().unwrap_or_else(|| "anonymous".to_owned()))),
        (None, Some(claims), false) => {
            let mut claims = claims.clone();
            let jwt = &rules.settings.jwt;
            for (claim, value) in [
                ("iss", Value::from(&*jwt.issuer)),
                ("aud", Value::from(&*jwt.audience)),
                ("iat", Value::from(now)),
                ("exp", Value::from(now + 60)),
            ] {
                claims.entry(claim).or_insert(value);
            }
            let client_id = client().unwrap_or_else(|| client_id(&claims));
            let presented = presented(b"", &client_id);
            let identity = rules.policy.assume(&claims, &presented, now);
            Ok((identity.map_err(|refusal| anyhow::anyhow!("{}", refusal.log))?, client_id))
        }
        _ => bail!("exactly one of user, token and anonymous: true says who asks"),
    }
}

#[cfg(test)]
mod tests;

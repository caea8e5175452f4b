//! The verbs of `mqttctl`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::target::Where;
use super::{
    authz, bench, block_on, chain, denies, endpoint, exit, keys, lint, messages, now, revoke, rules, say, session,
    token, up, user,
};
use crate::process::logs;

const EXAMPLES: &str = "Examples:
  mqttctl up -f manifests/samples/thermometer.yaml     a broker on this machine
  mqttctl endpoint                                     where clients connect
  mqttctl token issue --sub dev1 --publish 'sensor/#'  a token for a device
  mqttctl subscribe 'sensor/#' -v                      what devices say

mqttctl looks at --state DIR; else, with -n, --context or --kubeconfig, at a cluster; else at
./.mqtt, when an `up` runs there; else at the cluster of the kubeconfig. One line on stderr says
which.";

const ISSUE_EXAMPLES: &str = "Examples:
  mqttctl token issue --sub dev1 --publish 'sensor/${clientid}/#' --subscribe 'cmd/${clientid}/#'
  mqttctl token issue --sub dev1 --client-id dev1 --group thermometers --ttl 30d > dev1.jwt
  mosquitto_pub -h HOST -t sensor/dev1/c -m 21 $(mqttctl token issue --sub dev1 --publish 'sensor/#' -o mosquitto)";

const INSPECT_HELP: &str =
    "Where the broker's state is at hand (--state, ./.mqtt) or a cluster is named (-b, -n, --context,
--kubeconfig), the state of the key and all rules that hold for the bearer are told too.";

/// Brokers described by MqttBroker objects, on this machine and in a cluster.
#[derive(Debug, Parser)]
#[command(name = "mqttctl", version, after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    wanted: Where,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run an object on this machine, without Kubernetes
    Up(up::Up),
    /// Where clients connect, and whether something serves MQTT there now
    Endpoint(endpoint::Endpoint),
    /// Signing keys: list, rotate, revoke
    Keys {
        #[command(subcommand)]
        verb: keys::Verb,
    },
    /// Tokens: issue, inspect, revoke
    Token {
        #[command(subcommand)]
        verb: TokenVerb,
    },
    /// Users with passwords: list, passwd, import
    User {
        #[command(subcommand)]
        verb: user::Verb,
    },
    /// Sessions of clients: list, show, kick
    Session {
        #[command(subcommand)]
        verb: session::Verb,
    },
    /// What no rule allowed, and whoever was not let in
    #[command(after_help = denies::EXAMPLES)]
    Denies(denies::Denies),
    /// What clients may do: explain, test
    Authz {
        #[command(subcommand)]
        verb: authz::Verb,
    },
    /// Publish a message
    Publish(messages::Publish),
    /// Subscribe, and print what comes
    Subscribe(messages::Subscribe),
    /// Check a manifest as an API server and the operator would
    Lint(lint::Lint),
    /// Load a broker with messages and measure it
    Bench(bench::Bench),
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Sign a token, with the keys of the broker and your own right to read them
    #[command(after_help = ISSUE_EXAMPLES)]
    Issue(token::IssueArgs),
    /// Say what a token says; needs no key, and so proves nothing
    #[command(after_help = INSPECT_HELP)]
    Inspect(token::InspectArgs),
    /// Take tokens back before they expire
    #[command(after_help = revoke::EXAMPLES)]
    Revoke(revoke::Revoke),
    /// Whether the broker accepts a token now: exit code 0, or 1 and the reason; 2 if that cannot be told
    Verify(token::VerifyArgs),
}

/// `mqttctl`.
pub fn main() -> ExitCode {
    let Flags { wanted, verb } = Flags::parse();
    logs::init_at(logs::Format::asked().unwrap_or(logs::Format::Human), "warn");
    let result = match verb {
        Verb::Up(flags) => block_on(up::run(flags, wanted)),
        Verb::Endpoint(flags) => block_on(endpoint::run(flags, wanted)),
        Verb::Keys { verb } => block_on(keys::run(verb, wanted)),
        Verb::Token { verb: TokenVerb::Issue(flags) } => block_on(issue(flags, wanted)),
        Verb::Token { verb: TokenVerb::Revoke(flags) } => block_on(revoke::run(flags, wanted)),
        Verb::Token { verb: TokenVerb::Inspect(flags) } => block_on(inspect(flags, wanted)),
        Verb::Token { verb: TokenVerb::Verify(flags) } => return verify(&flags, &wanted),
        Verb::User { verb } => block_on(user::run(verb, wanted)),
        Verb::Session { verb } => block_on(session::run(verb, wanted)),
        Verb::Denies(flags) => block_on(denies::run(flags, wanted)),
        Verb::Authz { verb } => return authz::run(verb, &wanted),
        Verb::Publish(flags) => block_on(messages::publish(flags, wanted)),
        Verb::Subscribe(flags) => block_on(messages::subscribe(flags, wanted)),
        Verb::Lint(flags) => lint::run(&flags),
        Verb::Bench(flags) => bench::run(&flags),
    };
    exit("mqttctl", result)
}

async fn issue(flags: token::IssueArgs, wanted: Where) -> anyhow::Result<()> {
    let keys::Signing { key, jwt } = keys::signing(&wanted.find().await?).await?;
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    say(token::issue(&flags, &key, &jwt, now()?, random)?)
}

async fn inspect(flags: token::InspectArgs, wanted: Where) -> anyhow::Result<()> {
    let rules = if wanted.names_something() { Some(rules::of_target(&wanted.find().await?).await?) } else { None };
    say(token::tell(&flags, rules.as_ref(), now()?)?)
}

fn verify(flags: &token::VerifyArgs, wanted: &Where) -> ExitCode {
    let mut code = 2;
    let result = block_on(async {
        let rules = rules::of_target(&wanted.find().await?).await?;
        let (text, found) = token::verify(&token::read(&flags.token)?, flags.client_id.as_deref(), &rules, now()?)?;
        code = found;
        say(text)
    });
    match result {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mqttctl: {}", chain(&error));
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flags_agree_with_each_other() {
        super::Flags::command().debug_assert();
    }
}

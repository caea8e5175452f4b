//! `mqttctl lint`: what an API server, and then the operator, would say about a manifest.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::say;
use crate::api::manifest::Manifest;
use crate::api::{MqttBroker, MqttUser};
use crate::auth::password::check_hash;
use crate::auth::unreachable;
use crate::local;
use crate::plan::{self, NotAdded, Password, Plan};

const EXAMPLES: &str = "Examples:
  mqttctl lint manifests/samples/thermometer.yaml
  mqttctl lint broker.yaml && kubectl apply -f broker.yaml";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Lint {
    /// Manifests: MqttBrokers, MqttUsers, and the Secrets that they refer to.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// A manifest and where it is from.
type Read<'a> = (&'a Path, Manifest);

pub fn run(lint: &Lint) -> anyhow::Result<()> {
    let read = lint.files.iter().map(|file| Ok((file.as_path(), local::read(file)?)));
    let read: Vec<Read<'_>> = read.collect::<anyhow::Result<_>>()?;
    let mut wrong = 0;
    for (file, manifest) in &read {
        for object in &manifest.brokers {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let checked = plan::plan(object).with_context(|| format!("{}: MqttBroker {name}", file.display()));
            match checked {
                Ok(plan) => {
                    say(format_args!("{}: MqttBroker {name} is valid", file.display()))?;
                    wrong += users(plan, &read, file)?;
                }
                Err(error) => {
                    eprintln!("{}", super::chain(&error));
                    wrong += 1;
                }
            }
        }
    }
    strangers(&read)?;
    if wrong > 0 {
        bail!("{wrong} of the objects will not do");
    }
    Ok(())
}

/// Says what becomes of the broker's MqttUsers, and of the Secrets that it and they refer to; how many will not do.
fn users(mut plan: Plan, read: &[Read<'_>], broker: &Path) -> anyhow::Result<usize> {
    let all: Vec<&MqttUser> = read.iter().flat_map(|(_, manifest)| &manifest.users).collect();
    let refused = plan.add_users(all.iter().copied());
    let mut wrong = 0;
    for NotAdded { object, reason, message } in &refused {
        let file = read.iter().find(|(_, it)| it.users.iter().any(|user| user.metadata.name.as_ref() == Some(object)));
        let file = file.map(|(file, _)| file.display().to_string()).unwrap_or_default();
        if *reason == "Disabled" {
            say(format_args!("{file}: MqttUser {object} is valid and disabled"))?;
        } else {
            eprintln!("{file}: MqttUser {object}: {message}");
            wrong += 1;
        }
    }
    for user in &plan.users {
        if let Some(object) = &user.object {
            say(format_args!("MqttUser {} is valid: {:?} of MqttBroker {}", object.name, user.name, plan.name))?;
        }
        let Password::Hash { name, key } = &user.password else { continue };
        let value = read.iter().find_map(|(_, manifest)| manifest.secret_value(&plan.namespace, name, key));
        let hash = value.map(|value| String::from_utf8_lossy(value.trim_ascii_end()).into_owned());
        if let Some(Err(error)) = hash.map(|hash| check_hash(&hash)) {
            eprintln!("the key {key} of Secret {name}, for user {:?}, is {error}", user.name);
            wrong += 1;
        }
    }
    for secret in missing(&plan, read) {
        say(format_args!("note: Secret {secret} is not in these files"))?;
    }
    for warning in unreachable::warnings(&plan.broker.auth) {
        say(format_args!("{}: MqttBroker {}: warning: {warning}", broker.display(), plan.name))?;
    }
    Ok(wrong)
}

/// Says which MqttUsers are of brokers that are not here: they are checked as far as an API server checks them.
fn strangers(read: &[Read<'_>]) -> anyhow::Result<()> {
    let namespace = |metadata: &ObjectMeta| metadata.namespace.clone().unwrap_or_else(|| "default".into());
    let brokers: Vec<&MqttBroker> = read.iter().flat_map(|(_, manifest)| &manifest.brokers).collect();
    for (file, user) in read.iter().flat_map(|(file, manifest)| manifest.users.iter().map(move |user| (file, user))) {
        let broker = &user.spec.broker_ref.name;
        let here = brokers.iter().any(|it| {
            it.metadata.name.as_ref() == Some(broker) && namespace(&it.metadata) == namespace(&user.metadata)
        });
        if !here {
            let name = user.metadata.name.as_deref().unwrap_or_default();
            say(format_args!(
                "{}: note: MqttUser {name} is of MqttBroker {broker}, which is not here",
                file.display()
            ))?;
        }
    }
    Ok(())
}

/// The Secrets that are referred to and that have to be in the cluster already.
fn missing(plan: &Plan, read: &[Read<'_>]) -> Vec<String> {
    let there = |name: &str| {
        read.iter().flat_map(|(_, manifest)| &manifest.secrets).any(|secret| {
            secret.metadata.name.as_deref() == Some(name)
                && secret.metadata.namespace.as_deref().unwrap_or("default") == plan.namespace
        })
    };
    plan.referenced_secrets().into_iter().filter(|name| !there(name)).map(str::to_owned).collect()
}

//! `mqttctl lint`: what an API server, and then the operator, would say about a manifest.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use super::say;
use crate::api::MqttBroker;
use crate::api::manifest::Manifest;
use crate::auth::unreachable;
use crate::{local, plan};

const EXAMPLES: &str = "Examples:
  mqttctl lint manifests/samples/thermometer.yaml
  mqttctl lint broker.yaml && kubectl apply -f broker.yaml";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Lint {
    /// Manifests: MqttBrokers, and the Secrets that they refer to.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub fn run(lint: &Lint) -> anyhow::Result<()> {
    let mut wrong = 0;
    for file in &lint.files {
        let manifest = local::read(file)?;
        for object in &manifest.brokers {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let checked = plan::plan(object).with_context(|| format!("{}: MqttBroker {name}", file.display()));
            match checked {
                Ok(plan) => {
                    say(format_args!("{}: MqttBroker {name} is valid", file.display()))?;
                    for secret in missing(object, &plan, &manifest) {
                        say(format_args!("{}: note: Secret {secret} is not in this file", file.display()))?;
                    }
                    for warning in unreachable::warnings(&plan.broker.auth) {
                        say(format_args!("{}: MqttBroker {name}: warning: {warning}", file.display()))?;
                    }
                }
                Err(error) => {
                    eprintln!("{}", super::chain(&error));
                    wrong += 1;
                }
            }
        }
    }
    if wrong > 0 {
        bail!("{wrong} of the objects will not do");
    }
    Ok(())
}

/// The Secrets that the object refers to and that have to be in the cluster already.
fn missing(object: &MqttBroker, plan: &plan::Plan, manifest: &Manifest) -> Vec<String> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let there = |name: &str| {
        manifest.secrets.iter().any(|secret| {
            secret.metadata.name.as_deref() == Some(name)
                && secret.metadata.namespace.as_deref().unwrap_or("default") == namespace
        })
    };
    plan.referenced_secrets().into_iter().filter(|name| !there(name)).map(str::to_owned).collect()
}

//! `spec.auth.guard` → what the broker does about wrong passwords.

use super::{Invalid, units};
use crate::api::{self, MqttBrokerSpec, ServiceType, TrafficPolicy};
use crate::auth::settings;

/// A ban of more than a day is a decision that a person should take.
const LONGEST_BAN: u64 = 24 * 3600;

/// What the broker does about wrong passwords.
pub fn guard(spec: &MqttBrokerSpec) -> Result<settings::Guard, Invalid> {
    let default = settings::Guard::default();
    let asked = spec.auth.guard.clone().unwrap_or_default();
    let failures = "spec.auth.guard.failures";
    let (failures, within) = match &asked.failures {
        None => (default.failures, default.within),
        Some(api::Rate::Number(0)) => (0, default.within),
        Some(rate) => {
            let rate = units::rate(failures, rate)?;
            let amount = u32::try_from(rate.amount).ok().filter(|amount| *amount <= 100_000);
            let amount = amount.ok_or_else(|| Invalid::new(failures, "must be at most 100000 in that time"))?;
            (amount, rate.seconds)
        }
    };
    let ban = units::seconds_or("spec.auth.guard.ban", asked.ban.as_ref(), default.ban.into())?;
    if !(1..=LONGEST_BAN).contains(&ban) {
        return Err(Invalid::new("spec.auth.guard.ban", "must be between 1s and 24h"));
    }
    let addresses_hidden = !asked.addresses_are_of_clients.unwrap_or_else(|| shows_addresses(spec));
    Ok(settings::Guard { failures, within, ban: ban as u32, addresses_hidden })
}

/// Whether the broker is sure to see the addresses of clients: nothing in between puts its own in their place, or says
/// whose connection it passes on.
fn shows_addresses(spec: &MqttBrokerSpec) -> bool {
    spec.service.type_ == ServiceType::ClusterIp
        || spec.service.external_traffic_policy == Some(TrafficPolicy::Local)
        || spec.listeners.iter().all(|listener| listener.proxy_protocol.is_some())
}

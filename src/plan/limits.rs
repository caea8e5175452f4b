//! `spec.limits` → the limits of `broker.json`.

use super::{Invalid, units};
use crate::api::{self, MqttBrokerSpec};
use crate::config::broker::{self, QueueFull};

/// Memory of the broker's container where the object says nothing.
pub const DEFAULT_MEMORY: &str = "512Mi";
/// The largest packet that MQTT has: a remaining length of 268,435,455 bytes and a header of five.
const LARGEST_PACKET: u64 = 268_435_460;
/// Below this a broker could not even start its threads.
const LEAST_MEMORY: u64 = 32 << 20;

/// Works out the limits, with their defaults.
pub fn limits(spec: &MqttBrokerSpec) -> Result<broker::Limits, Invalid> {
    let (limits, default) = (&spec.limits, broker::Limits::default());
    let max_packet_size = packet_size("maxPacketSize", limits.max_packet_size.as_ref(), default.max_packet_size)?;
    Ok(broker::Limits {
        max_connections: limits.max_connections.unwrap_or(default.max_connections),
        max_connections_per_address: limits.max_connections_per_address.unwrap_or(default.max_connections_per_address),
        connect_rate: rate("connectRate", limits.connect_rate.as_ref(), default.connect_rate)?,
        connect_rate_per_address: rate("connectRatePerAddress", limits.connect_rate_per_address.as_ref(), None)?,
        connect_timeout: connect_timeout(limits, default.connect_timeout)?,
        max_connect_size: packet_size("maxConnectSize", limits.max_connect_size.as_ref(), default.max_connect_size)?,
        max_sessions: limits.max_sessions.unwrap_or(default.max_sessions),
        max_client_id_length: limits.max_client_id_length.unwrap_or(default.max_client_id_length),
        max_keep_alive: max_keep_alive(limits)?,
        session_expiry: seconds("sessionExpiry", limits.session_expiry.as_ref(), default.session_expiry)?,
        max_packet_size,
        max_properties: limits.max_properties.unwrap_or(default.max_properties),
        topic_depth: limits.topic_depth.unwrap_or(default.topic_depth).max(1),
        max_topic_aliases: limits.max_topic_aliases.unwrap_or(default.max_topic_aliases),
        max_inflight: limits.max_inflight.unwrap_or(default.max_inflight).max(1),
        receive_maximum: limits.receive_maximum.unwrap_or(default.receive_maximum).max(1),
        message_rate: rate("messageRate", limits.message_rate.as_ref(), default.message_rate)?,
        byte_rate: rate("byteRate", limits.byte_rate.as_ref(), default.byte_rate)?,
        max_subscriptions: limits.max_subscriptions.unwrap_or(default.max_subscriptions),
        max_queued_messages: limits.max_queued_messages.unwrap_or(default.max_queued_messages),
        max_queued_bytes: bytes("maxQueuedBytes", limits.max_queued_bytes.as_ref(), default.max_queued_bytes)?,
        max_queued_age: max_queued_age(limits)?,
        queue_full: match limits.queue_full.unwrap_or_default() {
            api::QueueFull::DropOldest => QueueFull::DropOldest,
            api::QueueFull::Refuse => QueueFull::Refuse,
        },
        max_retained_messages: limits.max_retained_messages.unwrap_or(default.max_retained_messages),
        max_retained_bytes: bytes("maxRetainedBytes", limits.max_retained_bytes.as_ref(), default.max_retained_bytes)?,
        max_memory: max_memory(spec)?,
        deny_budget: deny_budget(spec.auth.deny_budget.as_ref(), default.deny_budget)?,
    })
}

fn field(name: &str) -> String {
    format!("spec.limits.{name}")
}

fn bytes(name: &str, value: Option<&api::Quantity>, default: u64) -> Result<u64, Invalid> {
    units::bytes_or(&field(name), value, default)
}

fn seconds(name: &str, value: Option<&api::Duration>, default: u32) -> Result<u32, Invalid> {
    let seconds = units::seconds_or(&field(name), value, default.into())?;
    u32::try_from(seconds).map_err(|_| Invalid::new(field(name), "must be at most 4294967295 seconds"))
}

/// A rate, where 0 is none.
fn rate(name: &str, value: Option<&api::Rate>, default: Option<broker::Rate>) -> Result<Option<broker::Rate>, Invalid> {
    match value {
        None => Ok(default),
        Some(api::Rate::Number(0)) => Ok(None),
        Some(rate) => units::rate(&field(name), rate).map(Some),
    }
}

fn deny_budget(value: Option<&api::Rate>, default: Option<broker::Rate>) -> Result<Option<broker::Rate>, Invalid> {
    match value {
        None => Ok(default),
        Some(api::Rate::Number(-1)) => Ok(None),
        Some(api::Rate::Number(0)) => Ok(Some(broker::Rate { amount: 0, seconds: 1 })),
        Some(rate) => units::rate("spec.auth.denyBudget", rate).map(Some),
    }
}

fn packet_size(name: &str, value: Option<&api::Quantity>, default: u32) -> Result<u32, Invalid> {
    let size = bytes(name, value, default.into())?;
    if !(1024..=LARGEST_PACKET).contains(&size) {
        return Err(Invalid::new(field(name), "must be between 1Ki and 268435460"));
    }
    Ok(size as u32)
}

fn connect_timeout(limits: &api::Limits, default: u32) -> Result<u32, Invalid> {
    let timeout = seconds("connectTimeout", limits.connect_timeout.as_ref(), default)?;
    if !(1..=300).contains(&timeout) {
        return Err(Invalid::new(field("connectTimeout"), "must be between 1s and 300s"));
    }
    Ok(timeout)
}

fn max_keep_alive(limits: &api::Limits) -> Result<u16, Invalid> {
    let longest = seconds("maxKeepAlive", limits.max_keep_alive.as_ref(), 0)?;
    u16::try_from(longest).map_err(|_| {
        Invalid::new(field("maxKeepAlive"), "must be at most 65535 seconds, the longest keep alive of MQTT")
    })
}

/// Nothing waits for less than a second; 0 is no limit.
fn max_queued_age(limits: &api::Limits) -> Result<Option<u32>, Invalid> {
    let longest = seconds("maxQueuedAge", limits.max_queued_age.as_ref(), 0)?;
    Ok((longest > 0).then_some(longest))
}

/// What the object says, else three quarters of what its container may use: the rest is for the allocator, for threads
/// and for what the kernel keeps on the container's account.
fn max_memory(spec: &MqttBrokerSpec) -> Result<Option<u64>, Invalid> {
    if let Some(asked) = &spec.limits.max_memory {
        let asked = bytes("maxMemory", Some(asked), 0)?;
        if asked != 0 && asked < LEAST_MEMORY {
            return Err(Invalid::new(field("maxMemory"), "must be at least 32Mi, or 0 for no limit"));
        }
        return Ok((asked != 0).then_some(asked));
    }
    let limit = match &spec.pod.resources {
        None => DEFAULT_MEMORY,
        Some(resources) => match resources.limits.as_ref().and_then(|limits| limits.get("memory")) {
            Some(limit) => &limit.0,
            None => return Ok(None),
        },
    };
    let limit = units::amount(limit).ok_or_else(|| {
        Invalid::new("spec.pod.resources.limits.memory", format!("{limit:?} is not an amount such as 512Mi"))
    })?;
    Ok(Some((limit / 4 * 3).max(LEAST_MEMORY)))
}

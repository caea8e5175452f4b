//! `spec.storage` → the volume claim, and the `storage` of `broker.json`.

use super::{Invalid, units};
use crate::api::{self, MqttBrokerSpec};
use crate::config::broker::{self, DEFAULT_BUFFER, DEFAULT_STORAGE};

/// Below this there is no room to write the new before the old is given back.
const LEAST: u64 = 64 << 20;

/// The volume that each pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// As the user writes it.
    pub size: String,
    pub bytes: u64,
    /// Absent: the cluster's default.
    pub class: Option<String>,
    /// It ends with the object.
    pub delete: bool,
}

/// The claim, unless nothing is to be kept.
pub fn claim(storage: &api::Storage) -> Result<Option<Claim>, Invalid> {
    if storage.durability == api::Durability::Memory {
        return Ok(None);
    }
    let bytes = units::bytes_or("spec.storage.size", Some(&storage.size), DEFAULT_STORAGE)?;
    if bytes < LEAST {
        return Err(Invalid::new("spec.storage.size", "must be at least 64Mi"));
    }
    let size = match &storage.size {
        api::Quantity::Number(number) => number.to_string(),
        api::Quantity::Text(text) => text.clone(),
    };
    let delete = storage.on_delete == api::OnDelete::Delete;
    Ok(Some(Claim { size, bytes, class: storage.storage_class_name.clone(), delete }))
}

/// What the broker is told: a sixteenth of the volume is for the file system's own.
pub fn of_broker(storage: &api::Storage, claim: Option<&Claim>) -> broker::Storage {
    let durability = match storage.durability {
        api::Durability::Fsync => broker::Durability::Fsync,
        api::Durability::Async => broker::Durability::Async,
        api::Durability::Memory => broker::Durability::Memory,
    };
    let size = claim.map_or(DEFAULT_STORAGE, |claim| claim.bytes - claim.bytes / 16);
    broker::Storage { durability, size }
}

/// Bytes that may wait for the bridge. What waits is on the volume, so that by default it is at most half of it: an
/// Elasticsearch that is away for long shall not take the room of everybody else.
pub fn buffer(spec: &MqttBrokerSpec, claim: Option<&Claim>) -> Result<u64, Invalid> {
    let field = "spec.telemetry.buffer";
    let asked = spec.telemetry.as_ref().and_then(|telemetry| telemetry.buffer.as_ref());
    let Some(asked) = asked else {
        return Ok(claim.map_or(DEFAULT_BUFFER, |claim| DEFAULT_BUFFER.min(claim.bytes / 2)));
    };
    let bytes = units::bytes_or(field, Some(asked), DEFAULT_BUFFER)?;
    if bytes == 0 {
        return Err(Invalid::new(field, "must be more than 0"));
    }
    match claim {
        Some(claim) if bytes >= claim.bytes => Err(Invalid::new(
            field,
            format!(
                "must be less than spec.storage.size, which is {}: what waits is kept there; raise that first",
                claim.size
            ),
        )),
        _ => Ok(bytes),
    }
}

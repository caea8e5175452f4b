//! What a broker keeps: how surely, and on what volume.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mqtt_broker::Quantity;

/// What a broker keeps: how surely, and on what volume.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "self.durability == 'memory' || quantity(string(self.size)).compareTo(quantity('64Mi')) >= 0"
    ).message("storage.size must be at least 64Mi; with durability memory it does not matter"),
    // Without a claim, there is nothing that would have to shrink.
    validation = Rule::new(
        "oldSelf.durability == 'memory' || self.durability == 'memory' || \
         quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0"
    ).message("storage.size can only grow, because a volume claim cannot shrink; keep the size, or make another MqttBroker"),
    validation = Rule::new(
        "!has(oldSelf.storageClassName) || \
         (has(self.storageClassName) && self.storageClassName == oldSelf.storageClassName)"
    ).message("storage.storageClassName cannot be changed, because a volume claim stays in its class; keep it, or make another MqttBroker"),
)]
pub struct Storage {
    /// Bytes of the volume claim. They can grow while the broker runs, where the storage class allows it.
    #[serde(default = "default_size")]
    pub size: Quantity,
    /// The storage class of the claim; absent means the cluster's default. Once set, it cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// When a message is acknowledged: when it is on the disk (fsync); when the system has it, which writes it to the
    /// disk within a second (async); at once (memory), and then a restart loses sessions, queues and retained messages,
    /// and there is no claim.
    #[serde(default)]
    pub durability: Durability,
    /// What becomes of the claim when this object is deleted. Retained, it serves the next object of the same name.
    #[serde(default)]
    pub on_delete: OnDelete,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            size: default_size(),
            storage_class_name: None,
            durability: Durability::default(),
            on_delete: OnDelete::default(),
        }
    }
}

fn default_size() -> Quantity {
    Quantity::Text("1Gi".into())
}

/// When a message is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Durability {
    #[default]
    Fsync,
    Async,
    Memory,
}

/// What becomes of a claim when its object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnDelete {
    #[default]
    Retain,
    Delete,
}

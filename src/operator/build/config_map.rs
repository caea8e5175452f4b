//! The ConfigMap with the documents that the containers read.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use crate::api::MqttBroker;
use crate::plan::Plan;

/// The settings of the broker: but for who may do what, it reads them once.
pub const BROKER: &str = "broker.json";

/// `broker.json`, and `bridge.json` with telemetry.
pub fn build(object: &MqttBroker, plan: &Plan) -> ConfigMap {
    let mut data = BTreeMap::from([(BROKER.to_owned(), document(&plan.broker))]);
    if let Some(bridge) = &plan.bridge {
        data.insert("bridge.json".to_owned(), document(bridge));
    }
    ConfigMap { metadata: super::metadata(object, plan, &plan.names.config), data: Some(data), ..ConfigMap::default() }
}

fn document<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).expect("a configuration is JSON")
}

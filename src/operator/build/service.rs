//! The Service for clients, and the headless one that gives pods their names.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::MqttBroker;
use crate::api::mqtt_broker::{IpFamilyPolicy, TrafficPolicy};
use crate::plan::{BROKER_ADMIN_PORT, Plan};

/// Where clients connect.
pub fn for_clients(object: &MqttBroker, plan: &Plan) -> Service {
    let asked = &plan.service;
    let mut metadata = super::metadata(object, plan, &plan.names.broker);
    if !asked.annotations.is_empty() {
        metadata.annotations = Some(asked.annotations.clone());
    }
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(asked.type_.as_str().into()),
            selector: Some(super::selector(plan)),
            ports: Some(listeners(plan)),
            load_balancer_class: asked.load_balancer_class.clone(),
            external_traffic_policy: asked.external_traffic_policy.map(|policy| match policy {
                TrafficPolicy::Cluster => "Cluster".into(),
                TrafficPolicy::Local => "Local".into(),
            }),
            ip_family_policy: asked.ip_family_policy.map(|policy| match policy {
                IpFamilyPolicy::SingleStack => "SingleStack".into(),
                IpFamilyPolicy::PreferDualStack => "PreferDualStack".into(),
                IpFamilyPolicy::RequireDualStack => "RequireDualStack".into(),
            }),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Headless; publishes pods that are not ready, so that they can be looked at.
pub fn of_pods(object: &MqttBroker, plan: &Plan) -> Service {
    let mut ports = listeners(plan);
    ports.push(port("admin", BROKER_ADMIN_PORT));
    Service {
        metadata: super::metadata(object, plan, &plan.names.pods),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(super::selector(plan)),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn listeners(plan: &Plan) -> Vec<ServicePort> {
    plan.listeners().iter().map(|listener| port(&listener.name, listener.port)).collect()
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: port.into(),
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}

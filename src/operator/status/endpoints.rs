//! Where clients reach the broker, read from its Service.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;

use crate::api::ServiceType;
use crate::api::status::{Endpoint, Scheme, Scope};
use crate::config::broker::{Listener, Protocol};
use crate::plan::Plan;

/// How the broker can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// What was asked for; absent until it exists.
    pub address: Option<String>,
    /// The port of the first listener at that address.
    pub port: u16,
    pub endpoints: Vec<Endpoint>,
}

/// Reads the Services of the plan. `ready` says whether a pod serves MQTT.
pub fn reach(plan: &Plan, services: &[Service], nodes: &[String], ready: bool) -> Reach {
    let name = Some(&plan.names.broker);
    let service = services.iter().find(|service| service.metadata.name.as_ref() == name);
    let mut endpoints = service.map(|service| internal(plan, service, ready)).unwrap_or_default();
    let first = plan.listeners()[0].port;
    let (address, port, external) = match (plan.service.type_, service) {
        (_, None) => (None, first, Vec::new()),
        (ServiceType::ClusterIp, Some(service)) => (cluster_ips(service).first().cloned(), first, Vec::new()),
        (ServiceType::LoadBalancer, Some(service)) => {
            let ingress = ingress(service);
            let external = each(plan.listeners(), &ingress, ready, |listener| Some(listener.port));
            (ingress.first().cloned(), first, external)
        }
        (ServiceType::NodePort, Some(service)) => {
            let port = node_port(service, &plan.listeners()[0].name);
            let external = each(plan.listeners(), nodes, ready, |listener| node_port(service, &listener.name));
            (port.and(nodes.first().cloned()), port.unwrap_or(first), external)
        }
    };
    endpoints.splice(0..0, external);
    Reach { address, port, endpoints }
}

/// `host`, or `host:port` when the port is not the one that every client takes by itself.
pub fn with_port(address: &str, port: u16) -> String {
    if port == 1883 { address.to_owned() } else { format!("{}:{port}", in_url(address)) }
}

fn internal(plan: &Plan, service: &Service, ready: bool) -> Vec<Endpoint> {
    let host = format!("{}.{}.svc", plan.names.broker, plan.namespace);
    let addresses = cluster_ips(service);
    let listeners = plan.listeners().iter();
    listeners
        .flat_map(|listener| {
            addresses.iter().map(|ip| Endpoint {
                ip: Some(ip.clone()),
                ..endpoint(listener, &host, listener.port, Scope::Internal, ready)
            })
        })
        .collect()
}

fn each(
    listeners: &[Listener],
    addresses: &[String],
    ready: bool,
    port: impl Fn(&Listener) -> Option<u16>,
) -> Vec<Endpoint> {
    listeners
        .iter()
        .filter_map(|listener| Some((listener, port(listener)?)))
        .flat_map(|(listener, port)| {
            addresses.iter().map(move |address| endpoint(listener, address, port, Scope::External, ready))
        })
        .collect()
}

fn endpoint(listener: &Listener, address: &str, port: u16, scope: Scope, ready: bool) -> Endpoint {
    let scheme = match listener.protocol {
        Protocol::Mqtt => Scheme::Mqtt,
        Protocol::Mqtts => Scheme::Mqtts,
        Protocol::Ws => Scheme::Ws,
        Protocol::Wss => Scheme::Wss,
    };
    let is_ip = address.parse::<IpAddr>().is_ok();
    Endpoint {
        name: listener.name.clone(),
        scheme,
        url: format!("{scheme}://{}:{port}{}", in_url(address), listener.url_path()),
        host: (!is_ip).then(|| address.to_owned()),
        ip: is_ip.then(|| address.to_owned()),
        port,
        scope,
        ready,
    }
}

/// An address as it stands before `:port`.
fn in_url(address: &str) -> String {
    if address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) { format!("[{address}]") } else { address.to_owned() }
}

fn cluster_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.clone().unwrap_or_else(|| spec.cluster_ip.iter().cloned().collect());
    all.into_iter().filter(|ip| ip != "None" && !ip.is_empty()).collect()
}

/// The addresses of the load balancer; some have no IP address, only a name.
fn ingress(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    ingress
        .filter_map(|ingress| ingress.ip.clone().or_else(|| ingress.hostname.clone()))
        .filter(|address| !address.is_empty())
        .collect()
}

fn node_port(service: &Service, name: &str) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let port = ports.iter().find(|port| port.name.as_deref() == Some(name))?.node_port?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

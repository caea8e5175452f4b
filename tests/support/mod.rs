//! What the tests of both binaries stand on: real servers and clients, started once per test process and gone with it.
//!
//! * [`ApiServer`]: etcd and kube-apiserver. `ApiServer::shared().client().await`, then [`with_temp_namespace`].
//! * [`Elasticsearch`]: `Elasticsearch::shared().url()`; `Elasticsearch::start(&[])` for one that a test may stop.
//! * [`Node`]: a whole cluster, for the end-to-end test. [`LoadBalancer`]: what a cloud would bring, on either server.
//! * [`Broker`]: ours, in this process.
//! * [`Mosquitto`]: a broker that is not ours; [`mosquitto_client`], [`paho`], [`node`] and [`chromium`] with [`mqttjs`], [`go_program`]:
//!   clients that are not ours.
//! * [`Raw`]: a client of packets, for what a well-behaved one does not do.
//! * [`await_until`], [`wait_until`]: a condition with a deadline, in place of every sleep.
//!
//! Nothing here is skipped: a missing part fails the test with the line that says how to get it.

// Each of the two test binaries uses a part of this.
#![allow(dead_code, unused_imports)]

mod apiserver;
mod broker;
mod certificates;
mod clients;
mod elasticsearch;
mod lab;
mod node;
mod raw;
mod wait;

pub use apiserver::{ApiServer, with_temp_namespace};
pub use broker::{Broker, PASSWORD, allow, open, replace, signing_key, unix_seconds, value, write_etc};
pub use certificates::{Authority, Pair};
pub use clients::{Mosquitto, Paho, chromium, go_program, mosquitto_client, mosquitto_passwd, mqttjs, node, paho};
pub use elasticsearch::{ELASTIC_PASSWORD, Elasticsearch};
pub use lab::{Held, cache, free_ports, kube_bin, lab_script, project_file, run};
pub use node::{Grant, HOST, LoadBalancer, Node};
pub use raw::{Raw, bytes_of, plain_connect};
pub use wait::{await_until, wait_until};

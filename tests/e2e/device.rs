//! A thermometer outside the cluster: Python and paho-mqtt.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

use crate::support::{Paho, paho, project_file, run};

/// Who connects where, and with what.
#[derive(Clone, Debug)]
pub struct Device {
    pub address: String,
    pub client_id: &'static str,
    pub topic: &'static str,
    /// User name and password; none is an anonymous client.
    pub credentials: Option<(&'static str, String)>,
    pub dialect: Dialect,
}

/// What is spoken, and by which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// MQTT 5 by paho-mqtt 2.
    V5,
    /// MQTT 3.1.1 by paho-mqtt 1.6.
    V311,
}

/// The codes that the broker answered with.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub struct Answers {
    pub connack: u8,
    pub pubacks: Vec<u8>,
}

/// What a device met that connected again and again.
#[derive(Debug, Deserialize)]
pub struct Reports {
    pub connections: u32,
    /// The codes of refused connections and publications.
    pub refused: Vec<u8>,
    /// The keys that its tokens were signed with.
    pub kids: Vec<String>,
}

impl Device {
    /// Connects and publishes these readings at QoS 1.
    pub fn publish(&self, readings: Range<u32>) -> Answers {
        let (version, protocol) = match self.dialect {
            Dialect::V5 => (Paho::V2, "5"),
            Dialect::V311 => (Paho::V1_6, "4"),
        };
        let count = readings.len().to_string();
        let mut command = paho(version);
        command
            .arg(project_file("tests/e2e/device.py"))
            .args([&self.address, "1883", self.client_id, self.topic])
            .args([protocol, &readings.start.to_string(), &count]);
        if let Some((username, password)) = &self.credentials {
            command.env("DEVICE_USERNAME", username).env("DEVICE_PASSWORD", password);
        }
        serde_json::from_str(&run(&mut command)).expect("device.py prints JSON")
    }

    /// Publishes these readings and expects that each is accepted.
    pub fn report(&self, readings: Range<u32>) {
        let accepted = Answers { connack: 0, pubacks: vec![0; readings.len()] };
        assert_eq!(self.publish(readings), accepted, "{self:?}");
    }

    /// Reads its token from a file, connects, publishes and disconnects, until the other file is there.
    pub fn report_until(&self, token: &Path, stop: &Path) -> Reports {
        let (version, protocol) = match self.dialect {
            Dialect::V5 => (Paho::V2, "5"),
            Dialect::V311 => (Paho::V1_6, "4"),
        };
        let (username, _) = self.credentials.as_ref().expect("the device has a token");
        let mut command = paho(version);
        command
            .arg(project_file("tests/e2e/reporting.py"))
            .args([&self.address, "1883", self.client_id, self.topic, protocol, username])
            .args([token, stop]);
        serde_json::from_str(&run(&mut command)).expect("reporting.py prints JSON")
    }

    /// This device with other credentials.
    pub fn with(&self, credentials: Option<(&'static str, String)>) -> Self {
        Self { credentials, ..self.clone() }
    }
}

//! The small MQTT client that the bridge, `mqttctl`, the load generator and the tests share. May name `mqtt`.

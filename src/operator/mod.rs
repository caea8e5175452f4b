//! observe → plan → build → apply → status. Never opens an MQTT connection.

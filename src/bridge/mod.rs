//! MQTT message → document → batch → sink → acknowledgement.
//!
//! A message is acknowledged to the broker only when the sink holds its document. Knows of the broker only what MQTT
//! says. May name `mqtt`, `client`, `config`, `process`.

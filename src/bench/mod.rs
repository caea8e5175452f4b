//! The load generator behind `mqttctl bench`. May name `mqtt`, `client`, `auth`.

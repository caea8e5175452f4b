//! What an `MqttBroker` asks for, worked out once and purely: spec → validated settings → `config` values.

//! Durable sessions, queues and retained messages behind one narrow interface. May name `mqtt`.

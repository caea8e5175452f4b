//! Sockets, sessions, routing and delivery. May name `mqtt`, `auth`, `config`, `store`, `process`; never Kubernetes.

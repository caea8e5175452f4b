//! Every way to a broker: TCP, TLS, WebSocket and both, with a PROXY header or without, over IPv4 and IPv6.

mod proxy;
mod silent;
mod tls;
mod websocket;
mod wire;

//! Every way to a broker: TCP, TLS, WebSocket and both, with a PROXY header or without, over IPv4 and IPv6.

mod all;
mod proxy;
mod tls;
mod websocket;
mod wire;

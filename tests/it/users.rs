//! Users and their passwords, over real sockets and a real API server.

mod objects;
mod passwords;

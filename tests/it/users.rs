//! Users and their passwords, over real sockets.

mod passwords;

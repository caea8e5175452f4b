//! What becomes of a process that writes a file larger than it may (`ulimit -f`, `LimitFSIZE=`).

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// From now on such a write is an error that the writer sees, and no longer a signal that ends the process.
///
/// Must be called in a Tokio runtime.
pub fn refuse_by_error() -> io::Result<()> {
    // The handler stays when nobody listens; that it is there is what matters.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

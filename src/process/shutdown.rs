//! One handle that says when to stop.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal as listen};
use tokio::sync::watch;

/// Says when to stop. Clones see the same moment; it never goes back.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Shutdown {
    /// A handle that only [`Shutdown::trigger`] sets off.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Tells everyone who waits, now and later.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has been set off.
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it has been set off. Cancel-safe.
    pub async fn wait(&self) {
        // `self` keeps the sender alive, so the only way out is the value.
        let _ = self.0.subscribe().wait_for(|stop| *stop).await;
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// A handle that SIGTERM or SIGINT sets off. A second signal ends the process at once, with the shell's code for it.
///
/// Must be called in a Tokio runtime.
pub fn signal() -> io::Result<Shutdown> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let shutdown = Shutdown::new();
    let handle = shutdown.clone();
    tokio::spawn(async move {
        next(&mut terminate, &mut interrupt).await;
        handle.trigger();
        std::process::exit(next(&mut terminate, &mut interrupt).await);
    });
    Ok(shutdown)
}

/// Waits for either signal and returns the exit code that a shell gives it.
async fn next(terminate: &mut tokio::signal::unix::Signal, interrupt: &mut tokio::signal::unix::Signal) -> i32 {
    tokio::select! {
        _ = terminate.recv() => 128 + 15,
        _ = interrupt.recv() => 128 + 2,
    }
}

#[cfg(test)]
mod tests {
    use super::Shutdown;

    #[tokio::test]
    async fn every_clone_hears_of_it_before_and_after() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let clone = shutdown.clone();
            async move { clone.wait().await }
        });
        assert!(!shutdown.is_triggered());
        shutdown.clone().trigger();
        waiting.await.unwrap();
        shutdown.wait().await;
        assert!(shutdown.is_triggered());
    }
}

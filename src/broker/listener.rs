//! Accepting connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Shared;
use super::handshake::{self, NoConnection};
use crate::process::Shutdown;

/// Accepts until shutdown. `internal`: the bridge's listener.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, internal: bool, shutdown: Shutdown) {
    let permits = Arc::new(Semaphore::new(shared.limits.max_connections as usize));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: those who are connected are served on.
                tracing::warn!(%error, "cannot accept connections now");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            shared.counters.refused.add(1);
            tracing::warn!(%peer, maximum = shared.limits.max_connections, "refused: too many connections");
            continue;
        };
        // Writes are gathered here; waiting in the kernel for more would only add latency.
        let _ = socket.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            connection(socket, peer, &shared, internal).await;
            drop(permit);
        });
    }
}

/// Serves one client until its connection ends.
pub async fn connection<S>(socket: S, peer: SocketAddr, shared: &Arc<Shared>, internal: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Boxed and gone when it is done: a task that lives for months is then not as large as its handshake.
    match Box::pin(handshake::accept(socket, shared, internal)).await {
        Ok(connection) => {
            shared.counters.connected.add(1);
            shared.counters.connections.fetch_add(1, Ordering::Relaxed);
            connection.run().await;
            shared.counters.connections.fetch_sub(1, Ordering::Relaxed);
        }
        Err(error) => {
            shared.counters.refused.add(1);
            match error {
                // Probes and scanners: every load balancer opens and closes connections all day.
                NoConnection::Closed | NoConnection::Io(_) => tracing::debug!(%peer, %error, "not connected"),
                NoConnection::Violation(_) => {
                    shared.counters.violations.add(1);
                    tracing::warn!(%peer, %error, "not connected");
                }
                NoConnection::TooSlow | NoConnection::Refused { .. } => tracing::warn!(%peer, %error, "not connected"),
            }
        }
    }
}

//! Accepting connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Shared;
use super::counters::Gate;
use super::events::{self, Arrival};
use super::handshake;
use crate::process::Shutdown;

/// Accepts until shutdown.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, gate: Arc<Gate>, shutdown: Shutdown) {
    let permits = Arc::new(Semaphore::new(shared.limits.max_connections as usize));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => return,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually: those who are connected are served on.
                tracing::warn!(%error, "cannot accept connections now");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let arrival = Arrival { address, gate: gate.clone() };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            events::turned_away(&shared, &arrival, "too many connections");
            continue;
        };
        // Writes are gathered here; waiting in the kernel for more would only add latency.
        let _ = socket.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            connection(socket, arrival, &shared).await;
            drop(permit);
        });
    }
}

/// Serves one client until its connection ends.
pub async fn connection<S>(socket: S, arrival: Arrival, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Boxed and gone when it is done: a task that lives for months is then not as large as its handshake.
    match Box::pin(handshake::accept(socket, shared, &arrival)).await {
        Ok(connection) => {
            shared.counters.connected.add(1);
            shared.counters.connections.fetch_add(1, Ordering::Relaxed);
            let Arrival { gate, .. } = arrival;
            let version = connection.peer.version as usize;
            gate.connects[version].add(1);
            gate.connections[version].fetch_add(1, Ordering::Relaxed);
            connection.run().await;
            gate.connections[version].fetch_sub(1, Ordering::Relaxed);
            shared.counters.connections.fetch_sub(1, Ordering::Relaxed);
        }
        Err(error) => events::not_connected(shared, &arrival, &error),
    }
}

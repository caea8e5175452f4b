//! Closing a connection so that the last word arrives.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long the goodbye may take to leave, and then how long the peer may take to close its side.
const PATIENCE: Duration = Duration::from_millis(200);
/// Bytes of one read of what nobody wants any more.
const UNHEARD: usize = 4 * 1024;

/// Closes the sending side and reads on, unheard, until the peer has closed too. Bytes that nobody has read turn a close
/// into a reset, and a reset may reach the peer before the DISCONNECT does.
pub async fn close<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) {
    if !matches!(tokio::time::timeout(PATIENCE, socket.shutdown()).await, Ok(Ok(()))) {
        return;
    }
    let mut unheard = vec![0; UNHEARD];
    let unread = async { while socket.read(&mut unheard).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(PATIENCE, unread).await;
}

//! How clients are sent away when the broker stops: not all at once, because all would come back at once.

use std::sync::Arc;
use std::time::Duration;

use super::mailbox::{Command, Mailbox};
use crate::mqtt::ReasonCode;

/// Time between two handfuls of clients.
const TICK: Duration = Duration::from_millis(10);
/// Clients that are sent away at a time, or more where it would take longer than [`LONGEST`].
const HANDFUL: usize = 10;
/// How long it may take until the last has been told.
const LONGEST: Duration = Duration::from_secs(10);

/// Tells each of these to leave, a handful at a time; those who are not told yet are served on.
pub async fn tell(clients: &[Arc<Mailbox>]) {
    for (n, some) in clients.chunks(handful(clients.len())).enumerate() {
        if n > 0 {
            tokio::time::sleep(TICK).await;
        }
        for mailbox in some {
            let reason = ReasonCode::SERVER_SHUTTING_DOWN;
            mailbox.command(Command::Close { reason, forget: false, done: None });
        }
    }
}

fn handful(clients: usize) -> usize {
    let ticks = (LONGEST.as_millis() / TICK.as_millis()) as usize;
    clients.div_ceil(ticks).max(HANDFUL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_clients_leave_at_a_bounded_rate_and_many_within_a_bounded_time() {
        assert_eq!((handful(0), handful(1), handful(10_000)), (10, 10, 10), "a thousand a second");
        for clients in [1_usize, 10_001, 100_000, 1_234_567] {
            let told = TICK * u32::try_from(clients.div_ceil(handful(clients))).unwrap();
            assert!(told <= LONGEST, "{clients}: {told:?}");
        }
    }
}

//! What has waited longer than `maxQueuedAge`, and whose client does not come to take it.
//!
//! A client that takes what waits leaves out by itself what is too old. The queues of those that are away, or take nothing,
//! are looked at here: from the oldest message on, up to the first that is young enough. They are in the order in which
//! messages were published, nearly; what is behind a younger one goes after that one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counters::Loss;
use super::effects::Effects;
use super::{Shared, unix_millis};
use crate::process::Shutdown;
use crate::store::Age;

/// How often the queues are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// Queues, and messages that are dropped, between which others have their turn.
const AT_ONCE: usize = 1024;
/// A device that is away for good loses messages all day: the log says so once in that time.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// Drops what has waited too long, until shutdown.
pub async fn serve(shared: Arc<Shared>, shutdown: Shutdown) {
    let (mut dropped, mut told) = (0, None::<Instant>);
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.wait() => return,
        }
        if let Some(most) = shared.max_queued_age() {
            dropped += sweep(&shared, most).await;
        }
        if dropped > 0 && told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(dropped, "messages have waited longer than maxQueuedAge for clients that did not take them");
            (dropped, told) = (0, Some(Instant::now()));
        }
    }
}

/// Looks at each queue once; answers how many messages the limit cost.
async fn sweep(shared: &Shared, most: u64) -> u64 {
    let age = Age::new(unix_millis(), most);
    let (mut dropped, mut work) = (0, 0);
    let (_, mailboxes) = shared.registry.mailboxes();
    for mailbox in mailboxes {
        let mut again = true;
        while again {
            let mut effects = Effects::default();
            let (old, more) = mailbox.drop_old(age, &mut effects);
            shared.carry_out(effects);
            shared.counters.dropped.add(Loss::TooOld, old.dropped as u64);
            shared.counters.expired.add(old.expired as u64);
            dropped += old.dropped as u64;
            again = more;
            work += 1 + old.len();
            if work >= AT_ONCE {
                work = 0;
                tokio::task::yield_now().await;
            }
        }
    }
    dropped
}

//! What gives way when memory is short: queues, the longest first, before anybody is refused.
//!
//! A queue that is pushed to shrinks by itself. One that nobody publishes to any more would keep what it has for as long as
//! its session lasts, and a few forgotten sessions could keep every new client out; so all of them are looked at.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::counters::Loss;
use super::effects::Effects;
use crate::process::Shutdown;
use crate::store::memory::{self, Level};

/// How often memory is looked at.
const EVERY: Duration = Duration::from_millis(250);
/// How often what a queue may keep is halved while memory stays scarce.
const HALVINGS: u32 = 8;
/// Queues between which others have their turn.
const AT_ONCE: usize = 1024;

/// Shortens long queues while memory is short, until shutdown.
pub async fn serve(shared: Arc<Shared>, shutdown: Shutdown) {
    let mut halvings = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.wait() => return,
        }
        let level = memory::level();
        if level == Level::Ample {
            halvings = 0;
            continue;
        }
        let dropped = shorten(&shared, halvings).await;
        if dropped > 0 {
            shared.counters.dropped.add(Loss::Memory, dropped);
            tracing::warn!(
                level = level.name(),
                dropped,
                "memory is short: long queues have lost their oldest messages"
            );
        }
        halvings = if level >= Level::Scarce { (halvings + 1).min(HALVINGS) } else { 0 };
    }
}

async fn shorten(shared: &Shared, halvings: u32) -> u64 {
    let mut dropped = 0;
    let (_, mailboxes) = shared.registry.mailboxes();
    for (index, mailbox) in mailboxes.iter().enumerate() {
        let (messages, bytes) = memory::level().queue();
        let mut effects = Effects::default();
        dropped += mailbox.shorten(messages, bytes, halvings, &mut effects) as u64;
        shared.carry_out(effects);
        if index % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    dropped
}

//! A broker of its own process is killed again and again, with clients of every kind on it. What it has acknowledged is
//! there after every start: each message, in order, QoS 2 once; sessions, retained values, wills.
//!
//! `benches/crash.py` makes the long run and writes its report into `docs/durability.md`.

mod damage;
mod line;
mod page;
pub mod process;
mod publisher;
mod retained;
mod run;
mod stage;
mod subscriber;
mod wills;

use std::time::Duration;

use mqtt_operator::config::broker::Durability;

use run::{Plan, run};
use stage::Kind;

/// Both promise the same where it is the process that ends. Each start takes the next of them.
const CLASSES: &[Durability] = &[Durability::Fsync, Durability::Fsync, Durability::Fsync, Durability::Async];
/// Kills of the ordinary test.
const KILLS: u32 = 24;

/// A number from the environment, which `benches/crash.py` sets.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

fn seed() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed = number("MQTT_CRASH_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    eprintln!("again with MQTT_CRASH_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_however_often_the_broker_is_killed() {
    let kills = number("MQTT_CRASH_KILLS").map_or(KILLS, |kills| kills as u32);
    let plan = Plan { seed: seed(), kills, classes: CLASSES, patience: Duration::from_secs(30) };
    let outcome = run(plan).await;
    eprintln!("{}", page::markdown(&outcome));
    if let Some(path) = std::env::var_os("MQTT_CRASH_PAGE") {
        page::write(path.as_ref(), &outcome);
    }
    assert!(outcome.found.is_empty(), "{:?}\n{}", outcome.found, outcome.words.join("\n"));
}

/// What cannot fail proves nothing. Lost retained values are found as well, unless they are published anew before somebody
/// looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_keeps_nothing_is_found_out() {
    let plan = Plan { seed: seed(), kills: 3, classes: &[Durability::Memory], patience: Duration::from_secs(3) };
    let outcome = run(plan).await;
    for kind in [Kind::Session, Kind::Lost] {
        assert!(outcome.found.contains_key(&kind), "{kind:?}: {:?}\n{}", outcome.found, outcome.words.join("\n"));
    }
}

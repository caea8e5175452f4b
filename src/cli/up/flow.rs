//! The live line of `up`: what flows.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::report::{self, BridgeState};
use crate::local::Running;

/// Between two lines: on a terminal the same line is written again, elsewhere each stays.
const ON_TERMINAL: Duration = Duration::from_secs(1);
const ELSEWHERE: Duration = Duration::from_secs(10);

/// What was counted at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub broker: report::Broker,
    pub bridge: Option<report::Bridge>,
}

/// Writes the line for as long as it is polled. Returns only when stdout fails.
pub async fn show(running: &Running) -> anyhow::Result<()> {
    let terminal = io::stdout().is_terminal();
    let mut ticks = interval(if terminal { ON_TERMINAL } else { ELSEWHERE });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut at) = (Sample::default(), Instant::now());
    // The first tick is immediate, and there is nothing to compare with yet.
    ticks.tick().await;
    loop {
        let moment = ticks.tick().await;
        let (broker, bridge) = running.reports();
        let sample = Sample { broker, bridge };
        let text = line(&before, &sample, moment - at);
        let mut out = io::stdout().lock();
        let (start, end) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        write!(out, "{start}{text}{end}")?;
        out.flush()?;
        (before, at) = (sample, moment);
    }
}

/// The line about what happened between two samples.
fn line(before: &Sample, now: &Sample, took: Duration) -> String {
    let rate = |before: u64, now: u64| rounded(now.saturating_sub(before) as f64 / took.as_secs_f64().max(0.001));
    let (old, new) = (&before.broker, &now.broker);
    // The bridge is connected too, and not a client to a person.
    let connections = new.connections.saturating_sub(u64::from(now.bridge.is_some()));
    let mut parts = vec![
        format!("{connections} {}", if connections == 1 { "client" } else { "clients" }),
        format!("in {}/s", rate(old.messages_received, new.messages_received)),
        format!("out {}/s", rate(old.messages_sent, new.messages_sent)),
    ];
    let failures = [("dropped", new.messages_dropped), ("denied", new.messages_denied)];
    parts.extend(failures.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")));
    if let Some(bridge) = &now.bridge {
        let indexed = before.bridge.as_ref().map_or(0, |bridge| bridge.indexed);
        parts.push(format!("documents {}/s, {} in all", rate(indexed, bridge.indexed), bridge.indexed));
        if bridge.dead_lettered > 0 {
            parts.push(format!("rejected {}", bridge.dead_lettered));
        }
        if !matches!(bridge.state, BridgeState::Connected | BridgeState::Connecting) {
            parts.push(format!("telemetry waits: {:?}: {}", bridge.state, bridge.message.replace('\n', " ")));
        }
    }
    parts.join("  ")
}

/// One decimal where it says something.
fn rounded(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rates_totals_and_why_telemetry_waits() {
        let mut now = Sample::default();
        now.broker.connections = 3;
        now.broker.messages_received = 30;
        now.broker.messages_denied = 1;
        let message = "connection refused".to_owned();
        now.bridge =
            Some(report::Bridge { state: BridgeState::Unreachable, message, indexed: 5, ..Default::default() });
        let text = line(&Sample::default(), &now, Duration::from_secs(2));
        assert_eq!(
            text,
            "2 clients  in 15/s  out 0/s  denied 1  documents 2.5/s, 5 in all  telemetry waits: Unreachable: connection refused"
        );
    }
}

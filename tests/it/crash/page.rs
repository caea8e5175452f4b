//! The report of a run, as a part of a page.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use super::run::Outcome;
use super::stage::Kind;

const MARKS: [&str; 2] = ["<!-- crash report -->", "<!-- end of crash report -->"];

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn said(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What the run has shown.
pub fn markdown(outcome: &Outcome) -> String {
    let kills: u32 = outcome.kills.values().sum();
    let mut text = format!(
        "{}, commit {}; Linux {}, seed {}, durability `{}`, a debug build: {kills} kills in {:.0} s.\n\n",
        said("date", &["-u", "+%F"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        said("uname", &["-r"]),
        outcome.plan.seed,
        outcome.plan.durability.as_str(),
        outcome.took.as_secs_f64(),
    );
    let _ = writeln!(text, "| killed | times |\n|---|---|");
    for (point, times) in &outcome.kills {
        let words = match *point {
            "random" => "SIGKILL at a random instant",
            "after-write" => "between the write of a batch and its fdatasync",
            "after-sync" => "between the fdatasync and the acknowledgements",
            "compacting" => "while live records are copied out of an old segment",
            "new-segment" => "while a new segment is made",
            other => other,
        };
        let _ = writeln!(text, "| {words} | {times} |");
    }
    streams(&mut text, outcome);
    checks(&mut text, outcome);
    let _ = writeln!(text, "\n| found | |\n|---|---|");
    for kind in Kind::ALL {
        let count = outcome.found.get(&kind).copied().unwrap_or(0);
        let _ = writeln!(text, "| {} | {} |", kind.words(), thousands(count));
    }
    text
}

fn streams(text: &mut String, outcome: &Outcome) {
    let _ = writeln!(
        text,
        "\n| published with | QoS 0 | QoS 1: sent, acknowledged | QoS 2: sent, acknowledged |\n|---|---|---|---|"
    );
    for (levels, (index, version)) in outcome.stage.streams.iter().zip(outcome.versions.iter().enumerate()) {
        let cell = |qos: usize| {
            let stream = &levels[qos];
            let (sent, kept) = (stream.sent.load(Ordering::Relaxed), stream.acknowledged.load(Ordering::Relaxed));
            format!("{}, {}", thousands(sent.into()), thousands(kept.into()))
        };
        let retained = if index >= 3 { ", retained" } else { "" };
        let sent = thousands(levels[0].sent.load(Ordering::Relaxed).into());
        let _ = writeln!(text, "| {version}{retained} | {sent} | {} | {} |", cell(1), cell(2));
    }
}

fn checks(text: &mut String, outcome: &Outcome) {
    let counts = &outcome.stage.counts;
    let shown = |count: &AtomicU64| thousands(count.load(Ordering::Relaxed));
    let mut restarts = outcome.restarts.clone();
    restarts.sort_unstable();
    let millis = |at: usize| restarts.get(at).map_or(0, std::time::Duration::as_millis);
    let lines = [
        ("deliveries checked, QoS 0", shown(&counts.delivered[0])),
        ("deliveries checked, QoS 1", shown(&counts.delivered[1])),
        ("deliveries checked, QoS 2", shown(&counts.delivered[2])),
        ("QoS 1 deliveries that came twice, as they may", shown(&counts.doubled)),
        ("deliveries that came again with DUP under their identifier", shown(&counts.redelivered)),
        ("connections", shown(&counts.connections)),
        ("sessions found again at CONNECT", shown(&counts.sessions_resumed)),
        ("short sessions that outlived a kill", shown(&counts.sessions_begun)),
        ("retained values compared", shown(&counts.retained_checked)),
        ("wills that came", shown(&counts.wills)),
        (
            "start until it listens, median and longest",
            format!("{}, {} ms", millis(restarts.len() / 2), millis(restarts.len().saturating_sub(1))),
        ),
    ];
    let _ = writeln!(text, "\n| checked | |\n|---|---|");
    for (words, value) in lines {
        let _ = writeln!(text, "| {words} | {value} |");
    }
}

/// Puts it between the marks of the page.
pub fn write(page: &Path, outcome: &Outcome) {
    let old = std::fs::read_to_string(page).unwrap();
    let (head, rest) = old.split_once(MARKS[0]).expect("the page has a mark");
    let (_, tail) = rest.split_once(MARKS[1]).expect("the page has an end mark");
    let text = markdown(outcome);
    std::fs::write(page, format!("{head}{}\n\n{text}\n{}{tail}", MARKS[0], MARKS[1])).unwrap();
}

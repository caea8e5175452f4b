//! The report of a run, as a part of a page.

use std::collections::BTreeSet;
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
        "{}, commit {}; Linux {}, seed {}, a debug build: {kills} kills in {:.0} s.\n\n",
        said("date", &["-u", "+%F"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        said("uname", &["-r"]),
        outcome.plan.seed,
        outcome.took.as_secs_f64(),
    );
    killed(&mut text, outcome);
    streams(&mut text, outcome);
    checks(&mut text, outcome);
    let _ = writeln!(text, "\n| found | |\n|---|---|");
    for kind in Kind::ALL {
        let count = outcome.found.get(&kind).copied().unwrap_or(0);
        let _ = writeln!(text, "| {} | {} |", kind.words(), thousands(count));
    }
    text
}

/// How often it was killed and where, with a column for each durability.
fn killed(text: &mut String, outcome: &Outcome) {
    let mut classes: Vec<_> = outcome.plan.classes.iter().map(|class| class.as_str()).collect();
    classes.dedup();
    let points: BTreeSet<_> = outcome.kills.keys().map(|(point, _)| *point).collect();
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |", cells.join(" | "));
    let _ = writeln!(text, "{}", row("killed", classes.iter().map(|class| format!("`{class}`")).collect()));
    let _ = writeln!(text, "|---|{}", "---|".repeat(classes.len()));
    for point in points {
        let words = match point {
            "random" => "SIGKILL at a random instant",
            "after-write" => "after the write of a batch, before its fdatasync",
            "after-sync" => "after an fdatasync, before what follows from it",
            "compacting" => "while live records are copied out of an old segment",
            "new-segment" => "while a new segment is made",
            other => other,
        };
        let times = classes.iter().map(|class| outcome.kills.get(&(point, *class)).copied().unwrap_or(0).to_string());
        let _ = writeln!(text, "{}", row(words, times.collect()));
    }
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
    let mut starts = outcome.starts.clone();
    starts.sort_unstable();
    let median = starts.get(starts.len() / 2).copied().unwrap_or_default();
    let longest = starts.last().copied().unwrap_or_default();
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
            format!("{}, {} ms", median.took.as_millis(), longest.took.as_millis()),
        ),
        (
            "– of that, the journal was read",
            format!("{}, {} ms", median.reading.as_millis(), longest.reading.as_millis()),
        ),
        (
            "– and there were",
            format!(
                "{} records in {} segments, {} in {}",
                thousands(median.records),
                median.segments,
                thousands(longest.records),
                longest.segments
            ),
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

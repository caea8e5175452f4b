//! What a run brought, for people and for programs.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::usage::Sample;
use super::worker::Outcome;
use super::{Scenario, Settings};

/// The figures of a run. Times in microseconds unless the name says otherwise.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    pub scenario: Scenario,
    pub publishers: usize,
    pub subscribers: usize,
    pub qos: u8,
    pub size: usize,
    pub topics: usize,
    pub inflight: u16,
    /// Messages per second that were asked for.
    pub rate: Option<f64>,
    pub version: String,
    /// From the first message to the last arrival.
    pub seconds: f64,
    pub published: u64,
    pub acknowledged: u64,
    /// Acknowledged with a reason code that says no.
    pub refused: u64,
    /// Deliveries that the published messages should have brought.
    pub expected: u64,
    /// Deliveries without duplicates.
    pub delivered: u64,
    pub lost: u64,
    pub duplicates: u64,
    /// Deliveries that came after one that was sent later on the same topic.
    pub reordered: u64,
    /// Messages of somebody else.
    pub foreign: u64,
    pub failed_connections: usize,
    /// Why the first of them failed.
    pub failure: Option<String>,
    pub published_per_second: f64,
    pub delivered_per_second: f64,
    /// From the intended time of sending to the arrival.
    pub latency: Option<Latency>,
    /// From the intended time of sending to the end of the acknowledgement.
    pub acknowledgement: Option<Latency>,
    /// How late this program itself was; part of the other two.
    pub lateness: Option<Latency>,
    pub broker: Option<Usage>,
    /// CPU of this program per delivery, or per message where there are no deliveries.
    pub loader_cpu_per_delivery: Option<f64>,
}

/// Percentiles.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// What the broker's process used from the first message to the last arrival.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Usage {
    pub cpu_seconds: f64,
    /// Per delivery, or per published message where there are no deliveries.
    pub cpu_per_delivery: f64,
    pub peak_memory_bytes: u64,
    /// Growth while the clients connected and subscribed, per client.
    pub memory_bytes_per_client: u64,
}

/// When the processes were looked at.
#[derive(Debug)]
pub(super) struct Samples {
    pub(super) before_connect: Sample,
    pub(super) before: Sample,
    pub(super) after: Sample,
}

pub(super) fn build(settings: &Settings, outcome: Outcome, samples: &Samples, elapsed: Duration) -> Report {
    let Outcome { counts, result, failed_connections, failure } = outcome;
    let seconds = elapsed.as_secs_f64();
    let delivered = result.tally.delivered;
    let expected =
        if settings.scenario == Scenario::Subscribe { delivered + result.missing_of_others } else { counts.expected };
    let work = if delivered > 0 { delivered } else { counts.published };
    let per_delivery = |seconds: f64| if work == 0 { 0.0 } else { seconds * 1e6 / work as f64 };
    let own = samples.after.own_cpu_seconds.zip(samples.before.own_cpu_seconds);
    Report {
        scenario: settings.scenario,
        publishers: settings.publishers,
        subscribers: settings.subscribers,
        qos: settings.qos as u8,
        size: settings.size,
        topics: settings.topics,
        inflight: settings.inflight,
        rate: settings.rate,
        version: settings.version.to_string(),
        seconds,
        published: counts.published,
        acknowledged: counts.acknowledged,
        refused: counts.refused,
        expected,
        delivered,
        lost: expected.saturating_sub(delivered),
        duplicates: result.tally.duplicates,
        reordered: result.tally.late,
        foreign: result.tally.foreign,
        failed_connections,
        failure,
        published_per_second: counts.published as f64 / seconds,
        delivered_per_second: delivered as f64 / seconds,
        latency: latency(&result.latency),
        acknowledgement: latency(&result.publishers.acknowledged),
        lateness: latency(&result.publishers.lateness),
        broker: usage(settings, samples, per_delivery),
        loader_cpu_per_delivery: own.map(|(after, before)| per_delivery(after - before)),
    }
}

fn usage(settings: &Settings, samples: &Samples, per_delivery: impl Fn(f64) -> f64) -> Option<Usage> {
    let (before_connect, before, after) =
        (samples.before_connect.broker?, samples.before.broker?, samples.after.broker?);
    let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
    let clients = (settings.publishers + settings.subscribers) as u64;
    Some(Usage {
        cpu_seconds,
        cpu_per_delivery: per_delivery(cpu_seconds),
        peak_memory_bytes: after.peak_resident_bytes,
        memory_bytes_per_client: before.resident_bytes.saturating_sub(before_connect.resident_bytes) / clients.max(1),
    })
}

fn latency(histogram: &Histogram<u64>) -> Option<Latency> {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| Latency {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max() as f64 / 1e3,
    })
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0} µs", self.p50, self.p99, self.p999, self.max)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publishers, subscribers, qos, size, topics, version, .. } = self;
        writeln!(
            f,
            "clients      {publishers} → {subscribers}, QoS {qos}, {size} B, {topics} topics each, MQTT {version}"
        )?;
        writeln!(f, "published    {} in {:.2} s, {:.0}/s", self.published, self.seconds, self.published_per_second)?;
        if self.acknowledged > 0 {
            writeln!(f, "acknowledged {}, of them {} refused", self.acknowledged, self.refused)?;
        }
        if self.expected + self.delivered > 0 {
            writeln!(f, "delivered    {} of {}, {:.0}/s", self.delivered, self.expected, self.delivered_per_second)?;
            let Self { lost, duplicates, reordered, foreign, .. } = self;
            writeln!(
                f,
                "             {lost} lost, {duplicates} duplicates, {reordered} out of order, {foreign} foreign"
            )?;
        }
        for (name, latency) in
            [("latency", self.latency), ("PUBACK", self.acknowledgement), ("own delay", self.lateness)]
        {
            if let Some(latency) = latency {
                writeln!(f, "{name:<12} {latency}")?;
            }
        }
        if let Some(usage) = &self.broker {
            writeln!(f, "broker       {:.3} CPU µs per delivery ({:.2} s)", usage.cpu_per_delivery, usage.cpu_seconds)?;
            let mebibytes = usage.peak_memory_bytes as f64 / 1_048_576.0;
            let kibibytes = usage.memory_bytes_per_client as f64 / 1024.0;
            writeln!(f, "             {mebibytes:.1} MiB at most, {kibibytes:.1} KiB per client")?;
        }
        if let Some(loader) = self.loader_cpu_per_delivery {
            writeln!(f, "loader       {loader:.3} CPU µs per delivery")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "failed       {} connections, the first: {failure}", self.failed_connections)?;
        }
        Ok(())
    }
}

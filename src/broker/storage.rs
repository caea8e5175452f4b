//! What `/metrics` and the report show of the journal.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Shared;
use crate::config::report;
use crate::store::journal::{Health, Journal, SyncSeconds};

/// Reads the journal's figures when `/metrics` is asked. Without durability there are none.
#[derive(Debug)]
pub struct StorageMetrics(pub Arc<Shared>);

impl Collector for StorageMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(journal) = &self.0.journal else { return Ok(()) };
        let (stats, found) = (journal.stats(), journal.found());
        let places = found.damaged_places + stats.damaged_places;
        let bytes = found.damaged_bytes + stats.damaged_bytes;
        for (name, help, value) in [
            ("mqtt_storage_health", "0 good, 1 full, 2 failing", journal.health() as u64),
            ("mqtt_storage_bytes", "Bytes of the journal on disk", stats.total_bytes),
            ("mqtt_storage_live_bytes", "Bytes of the journal that are still needed", stats.live_bytes),
            ("mqtt_storage_segments", "Files of the journal", stats.segments),
            ("mqtt_storage_pending_bytes", "Bytes that wait to be written", stats.pending_bytes),
            ("mqtt_storage_damaged_places", "Places that could not be read, at the last start or since", places),
            ("mqtt_storage_damaged_bytes", "Bytes that could not be read, at the last start or since", bytes),
            ("mqtt_storage_missing_segments", "Files that were missing at the last start", found.missing_segments),
            ("mqtt_storage_lost_deliveries", "Deliveries that the last start could not find", found.lost_deliveries),
            ("mqtt_storage_lost_sessions", "Sessions that the last start could not find", found.lost_sessions),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in [
            ("mqtt_storage_commits", "Batches that were written down", stats.commits),
            ("mqtt_storage_syncs", "Times that the disk was asked to keep what was written", stats.syncs),
            ("mqtt_storage_records", "Records that were written down", stats.records),
            ("mqtt_storage_written_bytes", "Bytes that were written", stats.bytes_written),
            ("mqtt_storage_compacted_bytes", "Bytes copied so that old files could go", stats.compacted_bytes),
        ] {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let SyncSeconds { counts, sum } = stats.sync_seconds;
        let bounds = SyncSeconds::BOUNDS.into_iter().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let help = "How long the disk took to keep what was written";
        let mut histogram =
            encoder.encode_descriptor("mqtt_storage_sync_seconds", help, None, MetricType::Histogram)?;
        histogram.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }
}

/// How the journal is, for the report.
pub fn report(journal: &Journal) -> report::Storage {
    let stats = journal.stats();
    let health = match journal.health() {
        Health::Good => report::Health::Good,
        Health::Full => report::Health::Full,
        Health::Failing => report::Health::Failing,
    };
    report::Storage { health, problem: stats.last_error, bytes: stats.total_bytes, live_bytes: stats.live_bytes }
}

//! What the process itself uses, as `/metrics` shows it.
//!
//! Read from `/proc` when it is asked for; a system without it shows none of these.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks a second in which Linux tells times of processes, on every architecture.
const TICKS: f64 = 100.0;

/// Processor time, memory and file descriptors.
#[derive(Debug)]
pub struct Usage;

impl Collector for Usage {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let cpu = std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| cpu_seconds(&text));
        if let Some(seconds) = cpu {
            let help = "Processor time that the process has used";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(metric)?;
        }
        let resident = std::fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text));
        let descriptors = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as i64);
        let gauges = [
            ("process_resident_memory_bytes", "Memory of the process that is in use", resident),
            ("process_open_fds", "File descriptors of the process that are open", descriptors),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        Ok(())
    }
}

/// User and system time; fields 14 and 15, counted behind the name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / TICKS)
}

fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_understood() {
        let stat = "42 (a) b) (c) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 5 0 9 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
        assert_eq!(resident_bytes("VmPeak:\t  1 kB\nVmRSS:\t    2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(resident_bytes("VmRSS: many"), None);
    }
}

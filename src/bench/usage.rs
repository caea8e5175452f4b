//! What a process used, as the kernel counts it. Linux only: elsewhere there is no `/proc`, and no figure.

use std::time::Instant;

use super::BenchError;

/// The unit of CPU time in `/proc`, which Linux fixes at 100 per second for user space.
const TICK_SECONDS: f64 = 0.01;

/// A look at the broker and at this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    at: Instant,
    pub(super) broker: Option<Process>,
    pub(super) own_cpu_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Process {
    /// User and system time of all threads.
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) peak_resident_bytes: u64,
}

impl Sample {
    /// The share of one core between two samples.
    pub(super) fn broker_cpu_since(&self, earlier: &Self) -> Option<f64> {
        let used = self.broker?.cpu_seconds - earlier.broker?.cpu_seconds;
        Some(used / self.at.duration_since(earlier.at).as_secs_f64())
    }
}

pub(super) fn sample(broker: Option<u32>) -> Result<Sample, BenchError> {
    Ok(Sample {
        at: Instant::now(),
        broker: broker.map(|pid| process(&pid.to_string())).transpose()?,
        own_cpu_seconds: process("self").ok().map(|process| process.cpu_seconds),
    })
}

fn process(pid: &str) -> Result<Process, BenchError> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::read_to_string(&path).map_err(|source| BenchError::ReadUsage { path, source })
    };
    let parsed = |file: &str| BenchError::ParseUsage { path: format!("/proc/{pid}/{file}") };
    let cpu_seconds = cpu_seconds(&read("stat")?).ok_or_else(|| parsed("stat"))?;
    let status = read("status")?;
    let field = |name| status_bytes(&status, name).ok_or_else(|| parsed("status"));
    Ok(Process { cpu_seconds, resident_bytes: field("VmRSS:")?, peak_resident_bytes: field("VmHWM:")? })
}

/// Fields 14 and 15. The name of the program, field 2, is in parentheses and may itself hold spaces and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 * TICK_SECONDS)
}

fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_parentheses() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 11 0 2 0 150 50 3 4 20 0 1 0 88 9 1 18446744073709551615";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(1_048_576));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
    }
}

//! How much memory there is, and how much of it this process has.

use std::fs;

/// Bytes that this process may use: what the machine has, or less where a control group says so. `None` where the system
/// does not tell.
pub fn available() -> Option<u64> {
    let total = kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    Some(control_group().map_or(total, |limit| limit.min(total)))
}

/// Bytes of memory that this process has now. `None` where the system does not tell.
pub fn resident() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The limit of the control group, in a container.
fn control_group() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    files.iter().find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_less_than_there_is() {
        let (resident, available) = (resident().unwrap(), available().unwrap());
        assert!(0 < resident && resident < available, "{resident} of {available}");
    }

    #[test]
    fn amounts_are_read_in_kibibytes() {
        assert_eq!(kibibytes("Name: x\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2 << 20));
        assert_eq!(kibibytes("VmRSS:\t many kB\n", "VmRSS:"), None);
    }
}

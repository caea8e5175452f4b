//! What the kernel knows of a process and a directory.

use std::path::Path;

/// Seconds of processor time of this process, all threads.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name in brackets").1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    ticks as f64 / 100.0
}

fn line(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).expect("procfs");
    let found = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of this name");
    found.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Bytes that this process has given the kernel to write. What the kernel says of the disk itself counts whole folios of
/// up to megabytes for a change of a few bytes.
pub fn written_bytes() -> u64 {
    line("/proc/self/io", "wchar:")
}

/// The most memory that this process has had, in MiB.
pub fn peak_mib() -> u64 {
    line("/proc/self/status", "VmHWM:") / 1024
}

/// Bytes that a directory takes on its disk.
pub fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.flatten().map(|entry| (entry.path(), entry.metadata())).fold(0, |sum, (path, metadata)| {
        let Ok(metadata) = metadata else { return sum };
        sum + if metadata.is_dir() { disk_bytes(&path) } else { metadata.blocks() * 512 }
    })
}

//! Being a process: logs, signals, probes, metrics.

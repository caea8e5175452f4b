//! Places where a test can end the process at once, to see what is left. Release builds have none of it.

/// Ends the process if `MQTT_CRASH_AT` says `name:count` and this is the place's `count`th time.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static AT: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let at = AT.get_or_init(|| {
        let asked = std::env::var("MQTT_CRASH_AT").ok()?;
        let (name, count) = asked.split_once(':')?;
        Some((name.to_owned(), AtomicU64::new(count.parse().ok()?)))
    });
    if let Some((asked, left)) = at
        && asked == name
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn point(_: &str) {}

//! Conditions with a deadline.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Between two looks at a condition. Looking is cheap here, and tests should end soon after the condition holds.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `condition` until it says `Ok`, and returns that. Fails the test with the last `Err` when `deadline` has passed.
///
/// ```ignore
/// let address = await_until(Duration::from_secs(10), "an address in the status", async || {
///     let status = brokers.get_status("home").await.map_err(|error| error.to_string())?.status;
///     status.and_then(|status| status.address).ok_or("no address".to_owned())
/// })
/// .await;
/// ```
pub async fn await_until<T, E: Debug>(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(seen) if started.elapsed() >= deadline => fail(deadline, what, &seen),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// [`await_until`] for tests without a runtime.
pub fn wait_until<T, E: Debug>(deadline: Duration, what: &str, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) if started.elapsed() >= deadline => fail(deadline, what, &seen),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn fail(deadline: Duration, what: &str, seen: &dyn Debug) -> ! {
    panic!("no {what} within {deadline:?}; seen last: {seen:#?}");
}

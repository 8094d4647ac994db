//! Waiting for conditions.

use std::time::{Duration, Instant};

/// Long enough for four nodes on two busy cores; a scenario that needs it all has failed.
pub const LONG: Duration = Duration::from_secs(90);

const POLL: Duration = Duration::from_millis(50);

/// Polls until there is a value.
///
/// # Panics
/// With `what` and the last obstacle, when `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + limit;
    loop {
        match poll() {
            Ok(value) => return value,
            Err(obstacle) if Instant::now() > end => {
                panic!("waited {} s for: {what}; {obstacle}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Polls a condition.
///
/// # Panics
/// With `what`, when `limit` has passed.
pub fn until_true(what: &str, limit: Duration, mut poll: impl FnMut() -> bool) {
    until(what, limit, || if poll() { Ok(()) } else { Err("it does not hold".into()) });
}

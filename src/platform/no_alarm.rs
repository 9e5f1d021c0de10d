//! Where a sleeping machine's timers stand still, the clock is looked at now and then instead.

use super::LOOK_AT_CLOCK;
use std::time::Duration;

/// Rings when a time may have come.
pub struct Alarm;

impl Alarm {
    /// One that is not set.
    pub fn unset() -> Self {
        Self
    }

    /// Waits that long, or a while.
    pub async fn ring(&self, after: Duration) {
        tokio::time::sleep(after.min(LOOK_AT_CLOCK)).await;
    }
}

//! Waiting for a time that comes while the machine sleeps, too, and that moves when its clock is set: without looking at
//! the clock again and again.
//!
//! Source: `timerfd_create(2)`.

use super::LOOK_AT_CLOCK;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A time that never comes: in some thirty thousand years.
const NEVER: i64 = 1 << 40;

/// Rings when a time has come or the machine's clock was set; or now and then, where the system had no such timers left when
/// it was made.
pub struct Alarm(Option<Timers>);

struct Timers {
    /// Counts the machine's sleep.
    time: AsyncFd<Timer>,
    /// Is cancelled when the clock is set, which the kernel also says after a sleep.
    clock: AsyncFd<Timer>,
}

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    fn new(clock: ClockId) -> io::Result<AsyncFd<Self>> {
        let timer = TimerFd::new(clock, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: the descriptor is owned by what it is handed to, and is never replaced there.
        Ok(unsafe { AsyncFd::register_with_interest(Self(timer), Interest::READABLE) }?)
    }
}

impl Alarm {
    /// One that is not set.
    pub fn unset() -> Self {
        Self(Timers::new().map_err(|error| tracing::debug!("no alarm: {error}")).ok())
    }

    /// Waits that long, the machine's sleep included, or until its clock is set, or a while. May be dropped at any time.
    pub async fn ring(&self, after: Duration) {
        let rung = match &self.0 {
            Some(timers) => timers.ring(after).await.is_ok(),
            None => false,
        };
        if !rung {
            tokio::time::sleep(after.min(LOOK_AT_CLOCK)).await;
        }
    }
}

impl Timers {
    fn new() -> io::Result<Self> {
        let timers = Self { time: Timer::new(ClockId::CLOCK_BOOTTIME)?, clock: Timer::new(ClockId::CLOCK_REALTIME)? };
        timers.watch_clock()?;
        Ok(timers)
    }

    fn watch_clock(&self) -> io::Result<()> {
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        Ok(self.clock.get_ref().0.set(Expiration::OneShot(TimeSpec::new(NEVER, 0)), flags)?)
    }

    async fn ring(&self, after: Duration) -> io::Result<()> {
        // A timer that is set to nothing is not set.
        let after = TimeSpec::from_duration(after.max(Duration::from_nanos(1)));
        self.time.get_ref().0.set(Expiration::OneShot(after), TimerSetTimeFlags::empty())?;
        tokio::select! {
            ready = self.time.readable() => {
                // What it was set to before may have rung meanwhile: whoever waits looks at the time again anyway.
                let _ = self.time.get_ref().0.wait();
                ready?.clear_ready();
            }
            ready = self.clock.readable() => {
                let _ = self.clock.get_ref().0.wait();
                ready?.clear_ready();
                self.watch_clock()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_rings_as_often_as_it_is_set_and_not_before() {
        let timers = Timers::new().unwrap();
        for _ in 0..3 {
            timers.ring(Duration::from_millis(1)).await.unwrap();
        }
        timers.ring(Duration::ZERO).await.unwrap();
        let mut late = std::pin::pin!(timers.ring(Duration::from_secs(3600)));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(late.as_mut().poll(&mut context).is_pending());
    }
}

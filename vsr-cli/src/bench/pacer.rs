//! Waiting until a time in the timetable, more exactly than the runtime's timer can.
//!
//! The runtime's timer has a resolution of a millisecond, many times what a command takes; spinning
//! would take a core away from the servers. On Linux a timerfd wakes us through the same poll as the
//! sockets, within microseconds. Elsewhere the runtime's timer must do: the error is in the latencies
//! then, since they count from the timetable.

use std::io;
use std::time::Instant;

#[cfg(target_os = "linux")]
mod exact {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// One timerfd.
    #[derive(Debug)]
    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        #[expect(
            deprecated,
            reason = "the replacement is unsafe to call; what it warns of cannot happen to an \
                      OwnedFd, which is the same descriptor until it is closed with the AsyncFd"
        )]
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
        }

        pub(super) async fn sleep(&mut self, duration: Duration) -> io::Result<()> {
            let value = Timespec {
                tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
                // Zero would disarm it.
                tv_nsec: i64::from(duration.subsec_nanos()).max(1),
            };
            let once = Itimerspec {
                it_interval: Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value: value,
            };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            loop {
                let mut ready = self.0.readable().await?;
                let mut expirations = [0; 8];
                let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
                match read {
                    Ok(outcome) => return outcome.map(|_| ()),
                    // A readiness left over from before; the timer has not gone off yet.
                    Err(_would_block) => {}
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod exact {
    use std::io;
    use std::time::Duration;

    /// The runtime's timer.
    #[derive(Debug)]
    pub(super) struct Timer;

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn sleep(&mut self, duration: Duration) -> io::Result<()> {
            tokio::time::sleep(duration).await;
            Ok(())
        }
    }
}

/// Waits for times.
#[derive(Debug)]
pub(crate) struct Pacer {
    timer: Option<exact::Timer>,
}

impl Pacer {
    /// For one client; a closed loop never waits and needs no timer.
    ///
    /// # Errors
    /// When the operating system has no timers left.
    pub(crate) fn new(open_loop: bool) -> io::Result<Self> {
        Ok(Self {
            timer: open_loop.then(exact::Timer::new).transpose()?,
        })
    }

    /// Returns at `time`, or at once when it has passed.
    ///
    /// # Errors
    /// When the operating system's timer fails.
    pub(crate) async fn until(&mut self, time: Instant) -> io::Result<()> {
        let Some(timer) = &mut self.timer else {
            return Ok(());
        };
        loop {
            match time.saturating_duration_since(Instant::now()) {
                left if left.is_zero() => return Ok(()),
                left => timer.sleep(left).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_never_returns_early_and_rarely_late() {
        let mut pacer = Pacer::new(true).expect("a timer");
        let mut late = Vec::new();
        for _ in 0..50 {
            let time = Instant::now() + Duration::from_micros(1500);
            pacer.until(time).await.expect("sleeps");
            late.push(
                Instant::now()
                    .checked_duration_since(time)
                    .expect("not early"),
            );
        }
        late.sort();
        // Half of the runtime's resolution, with room for a busy machine in the other half of runs.
        assert!(late[5] < Duration::from_micros(500), "{late:?}");
    }

    #[tokio::test]
    async fn the_past_needs_no_waiting() {
        let past = Instant::now();
        Pacer::new(true)
            .expect("a timer")
            .until(past)
            .await
            .expect("returns");
        Pacer::new(false)
            .expect("no timer")
            .until(past)
            .await
            .expect("returns");
    }
}

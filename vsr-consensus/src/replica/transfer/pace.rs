//! How fast state is asked for.
//!
//! A donor serves clients with the same thread, and often the same cores, that give the state away.
//! Whoever asks as fast as answers come takes all of that; so the receiver asks for no more than a
//! number of bytes per second that is configured. What has come is paid for with time: the next question
//! waits until it is paid. A little may be saved up, so that a timer that rings late costs nothing.

use core::time::Duration;

use vsr_types::Instant;

/// How much time can be saved up: two of the coarsest ticks that a driver's timer has.
const CREDIT: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When everything that came is paid for.
    paid_at: Instant,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { paid_at: now }
    }

    /// So many bytes came, at a price of one second for `rate` of them.
    pub(super) fn took(&mut self, bytes: usize, rate: u64, now: Instant) {
        let price = (bytes as u64).saturating_mul(1_000_000_000) / rate.max(1);
        let from = self.paid_at.max(now.before(CREDIT));
        self.paid_at = from.after(Duration::from_nanos(price));
    }

    /// When something may be asked for.
    pub(super) const fn paid_at(&self) -> Instant {
        self.paid_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + micros * 1000)
    }

    #[test]
    fn what_came_is_paid_for_with_time_and_little_time_is_saved_up() {
        let mut pace = Pace::new(at(0));
        assert_eq!(
            pace.paid_at(),
            at(0),
            "the first question waits for nothing"
        );
        // At 1 MiB per millisecond.
        let rate = (MIB * 1000) as u64;
        pace.took(MIB, rate, at(100));
        pace.took(MIB / 2, rate, at(200));
        assert_eq!(pace.paid_at(), at(1500));
        // A timer that rings a little late loses nothing.
        pace.took(MIB, rate, at(2300));
        assert_eq!(pace.paid_at(), at(2500));
        // After a long silence there is no flood.
        pace.took(MIB, rate, at(50_000));
        assert_eq!(pace.paid_at(), at(49_000));
    }

    #[test]
    fn absurd_rates_neither_divide_by_zero_nor_overflow() {
        let mut pace = Pace::new(at(0));
        pace.took(usize::MAX, 0, at(0));
        assert!(pace.paid_at() > at(0));
        pace.took(usize::MAX, u64::MAX, at(0));
    }
}

//! How long to wait before the next attempt: doubling, bounded, and never in step with others.

use std::time::Duration;

use crate::Random;

/// Exponential backoff with jitter. The k-th wait lies between half of `min * 2^k` and all of it, at
/// most `max`: after an outage the waiting ones come back spread out, not together.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    current: Duration,
    random: Random,
}

impl Backoff {
    /// Waits from `min` up to `max`. A `max` below `min` counts as `min`.
    #[must_use]
    pub fn new(min: Duration, max: Duration, random: Random) -> Self {
        Self {
            min,
            max: max.max(min),
            current: min,
            random,
        }
    }

    /// The next wait; the one after it will be twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.current;
        self.current = ceiling.saturating_mul(2).min(self.max);
        let half = ceiling / 2;
        let spread = u64::try_from((ceiling - half).as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(self.random.below(spread.saturating_add(1)))
    }

    /// After success: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.current = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_again_after_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(20), ms(1000), Random::new(1));
        let mut ceiling = ms(20);
        for _ in 0..12 {
            let delay = backoff.next_delay();
            assert!(
                delay >= ceiling / 2 && delay <= ceiling,
                "{delay:?} of {ceiling:?}"
            );
            ceiling = (ceiling * 2).min(ms(1000));
        }
        backoff.reset();
        assert!(backoff.next_delay() <= ms(20));
    }

    #[test]
    fn two_seeds_do_not_wait_in_step() {
        let waits = |seed| {
            let mut backoff = Backoff::new(
                Duration::from_millis(20),
                Duration::from_secs(1),
                Random::new(seed),
            );
            (0..8).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_ne!(waits(1), waits(2));
    }
}

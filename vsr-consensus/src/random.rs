//! The replica's only randomness: jitter, from a generator that is seeded when it is made (M8).

use crate::sessions::mix;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): one word of state, good enough for jitter.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A duration between `base` and one and a half times that.
    pub(crate) fn jitter(&mut self, base: core::time::Duration) -> core::time::Duration {
        let half = u64::try_from(base.as_nanos() / 2)
            .unwrap_or(u64::MAX)
            .max(1);
        base + core::time::Duration::from_nanos(self.next() % half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn jitter_stays_within_half_and_differs() {
        let base = Duration::from_millis(10);
        let mut random = Random::new(7);
        let drawn: [Duration; 32] = core::array::from_fn(|_| random.jitter(base));
        assert!(drawn.iter().all(|d| *d >= base && *d < base * 3 / 2));
        assert!(drawn.iter().any(|d| *d != drawn[0]));
        let mut again = Random::new(7);
        assert_eq!(
            drawn,
            core::array::from_fn(|_| again.jitter(base)),
            "same seed, same jitter"
        );
    }
}

//! The simulator's randomness: seeded, so that one number tells a whole story again.
//!
//! Every concern (the plan, the network, the clients, the clocks) draws from a generator of its own,
//! so that leaving out a fault does not change what clients ask.

use crate::sessions::mix;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): one word of state, the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        Self(mix(seed ^ 0x5EED_0F5E_ED5E_ED05))
    }

    /// A generator of its own for one concern: equal for equal `concern`.
    #[must_use]
    pub(crate) const fn split(&self, concern: u64) -> Self {
        Self(mix(
            self.0 ^ mix(concern.wrapping_mul(0xA076_1D64_78BD_642F) + 1)
        ))
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// 128 bits.
    pub(crate) const fn wide(&mut self) -> u128 {
        ((self.next() as u128) << 64) | self.next() as u128
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When `bound` is zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        // Multiplying instead of dividing: faster, and as even as anybody needs here.
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// A number from `least` up to and including `most`.
    pub const fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Whether something that happens `part` times in a million happens now.
    pub const fn per_million(&mut self, part: u32) -> bool {
        part > 0 && self.below(1_000_000) < part as u64
    }

    /// Whether something that happens `percent` times in a hundred happens now.
    pub const fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A number around `mean` as waiting times are: often short, sometimes several times the mean.
    pub(crate) const fn waiting(&mut self, mean: u64) -> u64 {
        // The number of heads in a row is geometric; the rest of the word spreads it out. Integers
        // only, so that debug and release and every machine agree.
        let word = self.next();
        let heads = (word.trailing_ones() as u64) * 1000 + ((word >> 32) % 1000);
        // The mean of that is 1500.
        ((mean as u128 * heads as u128) / 1500) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_have_their_mean_and_a_tail() {
        let mut random = Random::new(3);
        let drawn: std::vec::Vec<u64> = (0..20_000).map(|_| random.waiting(1_000_000)).collect();
        let mean = drawn.iter().sum::<u64>() / 20_000;
        assert!((900_000..1_100_000).contains(&mean), "the mean is {mean}");
        assert!(drawn.iter().any(|&time| time > 5_000_000), "a tail");
        assert!(drawn.iter().any(|&time| time < 200_000), "short ones");
    }

    #[test]
    fn concerns_draw_apart() {
        let random = Random::new(9);
        assert_ne!(random.split(0).next(), random.split(1).next());
        assert_eq!(random.split(1).next(), random.split(1).next());
        let mut random = random;
        for bound in 1..50 {
            assert!(random.below(bound) < bound);
            assert!((bound..=bound + 3).contains(&random.between(bound, bound + 3)));
        }
    }
}

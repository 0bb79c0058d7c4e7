//! Random numbers: identities from the operating system, jitter from a small generator.
//!
//! Identities (clients, clusters, nonces) must never repeat, so they come from the operating system.
//! Jitter only has to differ between processes, so one seed and a few shifts are enough.

use vsr_types::{ClientId, ClusterId, Nonce};

/// xorshift64* (Vigna 2016): good enough to spread reconnections, never for identities.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with its own sequence. Zero is replaced, because xorshift would stay there.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(if seed == 0 {
            0x9E37_79B9_7F4A_7C15
        } else {
            seed
        })
    }

    /// A generator seeded by the operating system.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    #[must_use]
    pub fn from_os() -> Self {
        Self::new(u64::from_le_bytes(os_bytes()))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of the remainder does not matter for jitter.
        self.number().checked_rem(bound).unwrap_or(0)
    }
}

/// A fresh client identity (R1.6).
pub(crate) fn client_id() -> ClientId {
    ClientId::new(wide())
}

/// A fresh cluster identity (R7.1).
pub(crate) fn cluster_id() -> ClusterId {
    ClusterId::new(wide())
}

/// A fresh nonce.
pub(crate) fn nonce() -> Nonce {
    Nonce::new(wide())
}

/// 128 random bits, not all zero: zero means "none" in many fields.
fn wide() -> u128 {
    loop {
        let raw = u128::from_le_bytes(os_bytes());
        if raw != 0 {
            return raw;
        }
    }
}

fn os_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_stays_in_bounds_and_moves() {
        let mut random = Random::new(0);
        let numbers: Vec<u64> = (0..100).map(|_| random.below(10)).collect();
        assert!(numbers.iter().all(|&n| n < 10));
        assert!((0..10).all(|n| numbers.contains(&n)), "all of them occur");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn identities_do_not_repeat() {
        assert_ne!(client_id(), client_id());
        assert_ne!(cluster_id(), cluster_id());
        assert_ne!(nonce(), nonce());
    }
}

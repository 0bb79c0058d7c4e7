//! The tests' randomness: seeded, so that a failure's seed tells the whole story again.

/// `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        self.next() % bound
    }

    /// Whether something that happens `percent` times in a hundred happens now.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}

/// The seeds that the environment asks for: `VSR_SEED=17` that one alone, to play it again;
/// `VSR_SEED_BASE=1000 VSR_SEEDS=200` that many from there. None: the test's own.
pub fn chosen_seeds() -> Option<std::ops::Range<u64>> {
    let number = |name| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    if let Some(seed) = number("VSR_SEED") {
        return Some(seed..seed + 1);
    }
    let base = number("VSR_SEED_BASE").unwrap_or(0);
    number("VSR_SEEDS").map(|count| base..base + count)
}

//! Rows of the memory plan: what is allocated once, for how many of what, and how much of it is used.
//!
//! Whoever allocates at the start says so in [`Pool`]s, computed from the configuration before anything
//! is allocated, and says in [`Level`]s how full they are. One plan is made of all of them: it is what is
//! printed, shown by `inspect limits`, and compared with what an allocator really saw.

/// Memory for one purpose, allocated at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The part of the node it belongs to: what a sum is printed for.
    pub part: &'static str,
    /// Its name, unique in the plan.
    pub name: &'static str,
    /// What it is for, in a few words.
    pub purpose: &'static str,
    /// The setting that its size follows from.
    pub setting: &'static str,
    /// What is counted, in the plural.
    pub unit: &'static str,
    /// How many of them there are.
    pub count: usize,
    /// What each takes, in bytes.
    pub size: usize,
    /// It is allocated bit by bit while it is used, by libraries: the sum counts all of it.
    pub is_later: bool,
}

impl Pool {
    /// What it takes as a whole, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.count * self.size
    }
}

/// How much of a pool is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The pool's name.
    pub pool: &'static str,
    /// How many of its units are in use now.
    pub used: usize,
    /// The most that were in use at once since the start: the high-water mark.
    pub most: usize,
    /// Where each unit is a buffer: the most bytes that any of them held.
    pub fullest: Option<usize>,
}

impl Level {
    /// Of a pool whose units are in use or not.
    #[must_use]
    pub const fn new(pool: &'static str, used: usize, most: usize) -> Self {
        let most = if used > most { used } else { most };
        Self {
            pool,
            used,
            most,
            fullest: None,
        }
    }

    /// The most bytes that any of its buffers held.
    #[must_use]
    pub const fn with_fullest(self, bytes: usize) -> Self {
        Self {
            fullest: Some(bytes),
            ..self
        }
    }
}

/// The sum of a plan, in bytes.
#[must_use]
pub fn sum(plan: &[Pool]) -> usize {
    plan.iter().map(Pool::bytes).sum()
}

/// No system has smaller pages.
const PAGE_SIZE: usize = 4096;

/// Writes a zero into every page of `bytes`, whose content means nothing yet: memory that was only
/// promised by the system is resident afterwards, and nobody waits for it at a worse time.
pub fn touch(bytes: &mut [u8]) {
    for page in bytes.chunks_mut(PAGE_SIZE) {
        // The compiler cannot know that this is the zero that fresh memory reads as already.
        page[0] = core::hint::black_box(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_summed_and_a_high_water_mark_is_never_below_the_water() {
        let pool = |count, size| Pool {
            part: "part",
            name: "name",
            purpose: "for a test",
            setting: "none",
            unit: "units",
            count,
            size,
            is_later: false,
        };
        assert_eq!(sum(&[pool(3, 5), pool(2, 7)]), 29);
        assert_eq!(Level::new("name", 4, 3).most, 4);
        assert_eq!(Level::new("name", 2, 3).with_fullest(9).fullest, Some(9));
    }

    #[test]
    fn touching_writes_zeros_and_only_one_per_page() {
        let mut bytes = [7; PAGE_SIZE + 10];
        touch(&mut bytes);
        let zeros = bytes.iter().filter(|byte| **byte == 0).count();
        assert_eq!((zeros, bytes[0], bytes[PAGE_SIZE]), (2, 0, 0));
    }
}

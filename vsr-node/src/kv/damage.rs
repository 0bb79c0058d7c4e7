//! What is known of bytes that are not as they were written: where they may lie, and who must be told.
//!
//! Whatever reads the arena verifies what it reads, and returns [`Damage`] instead of a value when that
//! fails: through every level, so that nothing made of damaged bytes can become a reply. The machine
//! notes the first finding and answers nothing from then on, until a sound image is there.

use super::arena::CHUNK_SIZE;
use super::reply::Text;
use vsr_consensus::CHUNK_UNKNOWN;

/// Chunks of the image of which at least one is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    first: u32,
    /// How many; zero: what is wrong cannot be told to lie in any.
    count: u32,
}

impl Damage {
    /// Two pieces, each sound, contradict each other: that is no flipped bit, and where the mistake is
    /// cannot be told.
    pub(super) const UNKNOWN: Self = Self { first: 0, count: 0 };

    /// Something in the `size` bytes (not zero) from `at` on.
    #[cold]
    pub(super) const fn within(at: usize, size: usize) -> Self {
        let first = at / CHUNK_SIZE;
        let last = (at + size - 1) / CHUNK_SIZE;
        Self {
            first: first as u32,
            count: (last - first + 1) as u32,
        }
    }

    /// The first chunk, as the trait wants it.
    pub(super) const fn chunk(self) -> u64 {
        if self.count == 0 {
            CHUNK_UNKNOWN
        } else {
            self.first as u64
        }
    }

    /// How many chunks.
    pub(super) const fn span(self) -> u64 {
        if self.count == 0 {
            1
        } else {
            self.count as u64
        }
    }
}

/// Why a change was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// The arena has no block for it; nothing was changed.
    OutOfMemory,
    /// What it would build on is damaged; what was changed before that was noticed is lost with it.
    Damaged(Damage),
}

impl From<Damage> for Denied {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

/// Why a command failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    /// To be written as its reply.
    Told(Text),
    /// There is no reply.
    Damaged(Damage),
}

impl From<Text> for Failure {
    fn from(text: Text) -> Self {
        Self::Told(text)
    }
}

impl From<Damage> for Failure {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::OutOfMemory => Self::Told(super::reply::OUT_OF_MEMORY),
            Denied::Damaged(damage) => Self::Damaged(damage),
        }
    }
}

/// A command either wrote its reply or failed.
pub(super) type Outcome = Result<(), Failure>;

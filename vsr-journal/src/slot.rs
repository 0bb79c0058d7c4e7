//! One slot: a header, where its body lies, and what is known of that body.
//!
//! The header brings its own checksum. State and place are ours, and are as dangerous: a state that
//! flips from faulty to missing is a false "I never had it", and a place that flips shows another
//! op's bytes, every request of which is intact. So a seal covers both, bound to the header.

use bytemuck::{Pod, Zeroable};
use static_assertions::const_assert_eq;
use vsr_types::{Checksum, HEADER_SIZE, Hasher, Header, Op, message::Prepare};

/// What the journal knows of the entry for one op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing: beyond the head, or so old that even the header is gone.
    Empty,
    /// Header and body are held. (Reading verifies the body and may still find it damaged.)
    Present,
    /// The header is held and room is reserved; the body was never received. The only state that
    /// proves that this log never held the entry.
    Missing,
    /// The entry was held and is damaged: the body, or both copies of the slot, in which case there
    /// is no header either.
    Faulty,
    /// The entry was held; its body made room for newer ones, the header is still there.
    Overwritten,
}

/// States as they are stored: far apart, so that one flipped bit never turns one into another even
/// before the seal is looked at.
const PRESENT: u32 = 0x5052_4553;
const MISSING: u32 = 0x4D49_5353;
const FAULTY: u32 = 0x4641_554C;

/// What a slot says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Present,
    Missing,
    Faulty,
}

impl Stored {
    const fn raw(self) -> u32 {
        match self {
            Self::Present => PRESENT,
            Self::Missing => MISSING,
            Self::Faulty => FAULTY,
        }
    }

    const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            PRESENT => Some(Self::Present),
            MISSING => Some(Self::Missing),
            FAULTY => Some(Self::Faulty),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Slot {
    header: Header,
    start: u64,
    state: u32,
    seal: Checksum,
}

const_assert_eq!(size_of::<Slot>(), HEADER_SIZE + 16);

/// The part of the header that its own checksum does not cover, that checksum included.
const UNCOVERED: usize = 12;

impl Slot {
    /// A slot that was never used: it fails every check.
    pub(crate) fn fresh() -> Self {
        // Not zero, for the reason that the ring's bytes are not.
        bytemuck::cast([0xA5_u8; size_of::<Self>()])
    }

    pub(crate) fn new(header: &Header, start: u64, state: Stored) -> Self {
        let mut slot = Self {
            header: *header,
            start,
            state: state.raw(),
            seal: Checksum::default(),
        };
        slot.seal = slot.computed_seal();
        slot
    }

    fn computed_seal(&self) -> Checksum {
        let bytes = bytemuck::bytes_of(self);
        Hasher::new()
            .update(&bytes[..UNCOVERED])
            .update(&bytes[HEADER_SIZE..HEADER_SIZE + UNCOVERED])
            .finish()
    }

    /// Whether place and state are what was written with this header's checksum.
    fn is_sealed(&self) -> bool {
        self.seal == self.computed_seal() && Stored::from_raw(self.state).is_some()
    }

    /// Whether this is, undamaged, the slot of `op`.
    pub(crate) fn holds(&self, op: Op) -> bool {
        self.is_sealed()
            && self.header.is_intact()
            && self.header.fields::<Prepare>().is_some_and(|p| p.op == op)
    }

    /// Whether this held something once and cannot be read any more.
    pub(crate) fn is_damaged(&self) -> bool {
        let intact = self.is_sealed() && self.header.is_intact();
        !intact && bytemuck::bytes_of(self) != bytemuck::bytes_of(&Self::fresh())
    }

    /// Where the body begins, if that can be trusted. Cheaper than [`Self::holds`]; the caller knows
    /// that the slot was last written for the op it means.
    pub(crate) fn start_if_sealed(&self) -> Option<u64> {
        self.is_sealed().then_some(self.start)
    }

    pub(crate) const fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// What is known of the body. Only after [`Self::holds`]; anything else is faulty.
    pub(crate) fn state(&self) -> Stored {
        Stored::from_raw(self.state).unwrap_or(Stored::Faulty)
    }

    /// Flips one bit, for tests.
    #[cfg(any(test, feature = "inject"))]
    pub(crate) fn flip(&mut self, bit: usize) {
        bytemuck::bytes_of_mut(self)[bit / 8] ^= 1 << (bit % 8);
    }
}

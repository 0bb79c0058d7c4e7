//! One slot: a header, and beside it the *place*: where its body lies and what is known of it.
//!
//! The header brings its own checksum. The place is ours, and as dangerous: a state that flips from
//! faulty to missing is a false "I never had it", and a start that flips shows another op's bytes,
//! every request of which is intact. So a seal covers it, bound to the op. Places are kept apart from
//! headers, close together: finding out what an append overwrites looks at nothing else.

use bytemuck::{Pod, Zeroable};
use static_assertions::const_assert_eq;
use vsr_types::{Header, Op, message::Prepare};

use crate::ring::Position;

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
    /// The entry was held and is damaged: the body, or both copies of header or place. In the latter
    /// case there may be no header to show either.
    Faulty,
    /// The entry was held; its body made room for newer ones, the header is still there.
    Overwritten,
}

/// States as they are stored: far apart, so that one flipped bit never turns one into another even
/// before the seal is looked at.
const PRESENT: u16 = 0x5052;
const MISSING: u16 = 0x4D49;
const FAULTY: u16 = 0x4641;

/// What a place says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Present,
    Missing,
    Faulty,
}

impl Stored {
    const fn raw(self) -> u16 {
        match self {
            Self::Present => PRESENT,
            Self::Missing => MISSING,
            Self::Faulty => FAULTY,
        }
    }

    const fn from_raw(raw: u16) -> Option<Self> {
        match raw {
            PRESENT => Some(Self::Present),
            MISSING => Some(Self::Missing),
            FAULTY => Some(Self::Faulty),
            _ => None,
        }
    }
}

/// A place as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Place {
    /// The state in the lowest 16 bits, the lap above: the smallest ring at the highest rate needs
    /// a century to fill 48 bits.
    lap_and_state: u64,
    line: u64,
    seal: u64,
}

const_assert_eq!(size_of::<Place>(), 24);

/// The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): no two words have the same image,
/// and any change of a word changes half of the bits of its image.
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// A fresh header or place is filled with this. Not zero, for the reason that the ring's bytes are
/// not; it fails every check.
const FRESH: u8 = 0xA5;

impl Place {
    /// A place that was never used.
    pub(crate) fn fresh() -> Self {
        bytemuck::cast([FRESH; size_of::<Self>()])
    }

    #[inline]
    pub(crate) fn new(op: Op, start: Position, state: Stored) -> Self {
        let mut place = Self {
            lap_and_state: start.lap << 16 | u64::from(state.raw()),
            line: start.line,
            seal: 0,
        };
        place.seal = place.computed_seal(op);
        place
    }

    /// Not a checksum like everything that travels: a place is written with every append and read
    /// with every read, and three words take a CRC longer than copying them. Whatever happens to one
    /// of its words, and to that alone, is always found, since for the other two given no two values
    /// of the third have the same seal; what happens to several, with probability 1 - 2^-64.
    #[inline]
    fn computed_seal(&self, op: Op) -> u64 {
        // Odd, so that no two ops are taken to the same word.
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        mix(self.lap_and_state ^ mix(self.line ^ op.raw().wrapping_mul(SPREAD)))
    }

    /// Where the body of `op` begins and what is known of it, if this says so undamaged.
    #[inline]
    pub(crate) fn open(&self, op: Op) -> Option<(Position, Stored)> {
        let state = Stored::from_raw(self.lap_and_state as u16)?;
        let start = Position {
            lap: self.lap_and_state >> 16,
            line: self.line,
        };
        (self.seal == self.computed_seal(op)).then_some((start, state))
    }

    pub(crate) fn is_fresh(&self) -> bool {
        *self == Self::fresh()
    }
}

/// A header that was never used.
pub(crate) fn fresh_header() -> Header {
    bytemuck::cast([FRESH; size_of::<Header>()])
}

/// Whether `header` is, undamaged, the one of `op`. The route is outside the header's own checksum
/// and has one of its own.
#[inline]
pub(crate) fn is_header_of(header: &Header, op: Op) -> bool {
    header.is_intact()
        && header.route().is_some()
        && header.fields::<Prepare>().is_some_and(|p| p.op == op)
}

/// A slot whose header and place were both verified.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'a> {
    pub(crate) header: &'a Header,
    pub(crate) start: Position,
    pub(crate) state: Stored,
}

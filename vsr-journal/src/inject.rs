//! Damage on demand: the faults that the journal must find.
//!
//! For this crate's tests and, behind the feature `inject`, for the simulator.

use vsr_types::Op;

use crate::Journal;
use crate::slot::Slot;

/// How many bits a slot has: header, place, state and seal.
pub const SLOT_BITS: usize = size_of::<Slot>() * 8;

impl Journal {
    /// Flips bit `bit` (below 1024 the header's, then place, state and seal) in copy `copy` (0 or 1)
    /// of the slot of `op`, whatever that slot holds.
    ///
    /// # Panics
    /// When there is no such copy or bit.
    pub fn flip_bit_in_header(&mut self, op: Op, copy: usize, bit: usize) {
        let slot = self.slot_of(op);
        self.copies[copy][slot].flip(bit);
    }

    /// Flips bit `bit` of the body of `op`.
    ///
    /// # Panics
    /// When no such body is held, or it has no such bit.
    pub fn flip_bit_in_body(&mut self, op: Op, bit: usize) {
        let slot = self.slot(op).expect("a held op");
        let (start, size) = (slot.start(), slot.header().body_size());
        self.ring.get_mut(start, size)[bit / 8] ^= 1 << (bit % 8);
    }
}

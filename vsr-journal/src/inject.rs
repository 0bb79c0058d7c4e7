//! Damage on demand: the faults that the journal must find.
//!
//! For this crate's tests and, behind the feature `inject`, for the simulator.

use vsr_types::{HEADER_SIZE, Op};

use crate::Journal;
use crate::slot::Place;

/// How many bits a slot has: first the header's, then those of the journal's own notes beside it
/// (where the body lies, what is known of it, and their seal).
pub const SLOT_BITS: usize = (HEADER_SIZE + size_of::<Place>()) * 8;

impl Journal {
    /// Flips bit `bit`, below [`SLOT_BITS`], in copy `copy` (0 or 1) of the slot of `op`, whatever
    /// that slot holds.
    ///
    /// # Panics
    /// When there is no such copy or bit.
    pub fn flip_bit_in_header(&mut self, op: Op, copy: usize, bit: usize) {
        let slot = self.slot_of(op);
        let (header, place) = (&mut self.headers[copy][slot], &mut self.places[copy][slot]);
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        match byte.checked_sub(HEADER_SIZE) {
            None => bytemuck::bytes_of_mut(header)[byte] ^= mask,
            Some(byte) => bytemuck::bytes_of_mut(place)[byte] ^= mask,
        }
    }

    /// Flips bit `bit` of the body of `op`.
    ///
    /// # Panics
    /// When no such body is held, or it has no such bit.
    pub fn flip_bit_in_body(&mut self, op: Op, bit: usize) {
        let slot = self.slot(op).expect("a held op");
        let (start, size) = (slot.start, slot.header.body_size());
        self.ring.get_mut(start, size)[bit / 8] ^= 1 << (bit % 8);
    }
}

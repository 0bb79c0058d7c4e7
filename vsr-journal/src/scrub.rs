//! Looking for damage before anybody needs what was damaged.
//!
//! Everything is verified when it is read, but what nobody reads for an hour collects flipped bits: a
//! second one in the other copy of a slot, or the same body at every replica. So a scrubber goes round,
//! slot by slot. A damaged copy of a slot is rewritten from the other one, a slot without a readable place
//! is put together again from its neighbours, and a damaged body is marked, so that the replica fetches
//! it from a peer. Slots beyond the head are looked at too: they remember what may have been promised.

use vsr_types::{HEADER_SIZE, Header, Op, message::Prepare};

use crate::slot::{Place, fresh_header, is_header_of};
use crate::{Journal, ReadError, SlotState};

/// What was found in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// How many bytes were looked at.
    pub bytes: usize,
    /// How many damaged copies of headers and places were rewritten.
    pub mended: u32,
    /// The op that the slot holds, if the log reaches that far back.
    pub op: Option<Op>,
    /// The entry of this op is held and damaged: its body is to be fetched, or even its header.
    pub faulty: Option<Op>,
    /// Whether that was not known before.
    pub is_news: bool,
}

impl Journal {
    /// Looks at everything that slot `slot`, below [`Self::slots`], holds: mends what can be mended here
    /// and marks the entry faulty if its body is damaged.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn scrub_slot(&mut self, slot: usize) -> Scrubbed {
        assert!(slot < self.slots(), "the caller counts the slots");
        let bytes = 2 * (HEADER_SIZE + size_of::<Place>());
        let Some(op) = self.op_held_in(slot) else {
            return Scrubbed {
                bytes,
                mended: self.mend_memory(slot),
                ..Scrubbed::default()
            };
        };
        let mut seen = Scrubbed {
            bytes,
            mended: self.mend(slot, op),
            op: Some(op),
            ..Scrubbed::default()
        };
        let was = self.state(op);
        match was {
            SlotState::Present => {
                seen.bytes += self.header(op).map_or(0, Header::body_size);
                if self.read(op) == Err(ReadError::Faulty) {
                    self.mark_faulty(op);
                    seen.is_news = true;
                }
            }
            SlotState::Faulty => {
                // The header may tell enough to find out where the body lies.
                if self.slot(op).is_none()
                    && let Some(header) = self.header_in(slot, op).copied()
                    && self.restore_header(&header).is_ok()
                {
                    seen.mended += 1;
                }
            }
            SlotState::Missing | SlotState::Overwritten | SlotState::Empty => {}
        }
        seen.faulty = (self.state(op) == SlotState::Faulty).then_some(op);
        seen
    }

    /// As [`Self::scrub_slot`], for the slot of `op`. Returns the state of its entry after that.
    pub fn scrub(&mut self, op: Op) -> SlotState {
        if self.state(op) != SlotState::Empty {
            self.scrub_slot(self.slot_of(op));
        }
        self.state(op)
    }

    /// The op whose header lies in `slot`, if the log reaches that far back.
    fn op_held_in(&self, slot: usize) -> Option<Op> {
        let (slots, head) = (self.slots() as u64, self.head());
        let back = (head.raw() % slots + slots - slot as u64) % slots;
        let op = Op::new(head.raw().checked_sub(back)?);
        (op >= self.oldest() && op <= head).then_some(op)
    }

    /// Rewrites what of the slot of `op` is damaged in one copy. Says how many copies that were.
    fn mend(&mut self, slot: usize, op: Op) -> u32 {
        let headers = [0, 1].map(|copy| is_header_of(&self.headers[copy][slot], op));
        let places = [0, 1].map(|copy| self.places[copy][slot].open(op).is_some());
        let mut mended = 0;
        if let Some((good, bad)) = one_of(headers) {
            self.headers[bad][slot] = self.headers[good][slot];
            mended += 1;
        }
        if let Some((good, bad)) = one_of(places) {
            self.places[bad][slot] = self.places[good][slot];
            mended += 1;
        }
        mended
    }

    /// As [`Self::mend`], for a slot outside the log: it remembers an entry behind which the head was
    /// moved back, or was never used.
    fn mend_memory(&mut self, slot: usize) -> u32 {
        let slots = self.slots() as u64;
        let remembered = self.headers.iter().find_map(|copy| {
            let op = copy[slot].fields::<Prepare>()?.op;
            let is_here = op.raw() % slots == slot as u64 && is_header_of(&copy[slot], op);
            is_here.then_some(op)
        });
        if let Some(op) = remembered {
            return self.mend(slot, op);
        }
        // A slot that was ever used has been written in all four places.
        let headers = [0, 1].map(|copy| self.headers[copy][slot] == fresh_header());
        let places = [0, 1].map(|copy| self.places[copy][slot].is_fresh());
        if headers == [false; 2] || places == [false; 2] {
            return 0;
        }
        let damaged = headers.iter().chain(&places).filter(|fresh| !**fresh);
        let damaged = damaged.count() as u32;
        for copy in 0..2 {
            self.headers[copy][slot] = fresh_header();
            self.places[copy][slot] = Place::fresh();
        }
        damaged
    }
}

/// Which of two copies is good, if only one is: (the good one, the other).
const fn one_of(is_good: [bool; 2]) -> Option<(usize, usize)> {
    match is_good {
        [true, false] => Some((0, 1)),
        [false, true] => Some((1, 0)),
        [true, true] | [false, false] => None,
    }
}

#[cfg(test)]
mod tests;

//! The ring of bytes, and the arithmetic of places in it.
//!
//! Places are *positions* that only grow; the offset is the position modulo the capacity. So "was
//! this overwritten?" is one comparison and no lap can be mistaken for another: bytes from position
//! `start` on are intact while nothing was written beyond `start + capacity`.

use alloc::{boxed::Box, vec};

use bytemuck::{Pod, Zeroable};

/// Bodies begin at multiples of this many bytes, a cache line: two bodies never share one, and copies
/// run at the speed of aligned ones.
pub const LINE_SIZE: usize = 64;

/// What fresh memory is filled with. Not zero, so that writing it cannot be turned into asking the
/// system for zeroed pages, which would not be resident.
const FRESH: u8 = 0xA5;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE_SIZE]);

/// A fixed region of bytes in which bodies are placed one after the other, each in one piece.
pub(crate) struct Ring {
    lines: Box<[Line]>,
}

impl Ring {
    /// A ring of at least `bytes`, rounded up to whole lines.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            lines: vec![Line([FRESH; LINE_SIZE]); bytes.div_ceil(LINE_SIZE)].into_boxed_slice(),
        }
    }

    /// How many bytes [`Self::new`] allocates.
    pub(crate) const fn memory(bytes: usize) -> usize {
        bytes.div_ceil(LINE_SIZE) * LINE_SIZE
    }

    pub(crate) const fn capacity(&self) -> u64 {
        (self.lines.len() * LINE_SIZE) as u64
    }

    /// What a body of `size` occupies. An empty one takes a line too, so that no two ops share a
    /// position and "overwritten" means the same for all.
    pub(crate) const fn occupied(size: usize) -> u64 {
        let size = if size == 0 { 1 } else { size as u64 };
        size.next_multiple_of(LINE_SIZE as u64)
    }

    /// Where a body of `size` begins whose predecessor ends at `end`: right there, or at the start
    /// of the next lap when it would run over the region's end.
    pub(crate) const fn place(&self, end: u64, size: usize) -> u64 {
        let capacity = self.capacity();
        let offset = end % capacity;
        if offset + Self::occupied(size) <= capacity {
            end
        } else {
            end - offset + capacity
        }
    }

    fn offset(&self, start: u64) -> usize {
        (start % self.capacity()) as usize
    }

    /// The `size` bytes at position `start`.
    pub(crate) fn get(&self, start: u64, size: usize) -> &[u8] {
        let offset = self.offset(start);
        &bytemuck::cast_slice(&self.lines)[offset..offset + size]
    }

    /// Copies `body` to position `start`.
    pub(crate) fn put(&mut self, start: u64, body: &[u8]) {
        self.get_mut(start, body.len()).copy_from_slice(body);
    }

    pub(crate) fn get_mut(&mut self, start: u64, size: usize) -> &mut [u8] {
        let offset = self.offset(start);
        &mut bytemuck::cast_slice_mut(&mut self.lines)[offset..offset + size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_does_not_fit_before_the_end_begins_the_next_lap() {
        let ring = Ring::new(256);
        assert_eq!(ring.place(0, 256), 0);
        assert_eq!(ring.place(64, 192), 64, "up to the very end");
        assert_eq!(ring.place(64, 193), 256);
        assert_eq!(ring.place(256 + 128, 129), 512);
        assert_eq!(ring.place(192, 0), 192);
        assert_eq!(ring.place(256, 256), 256);
    }

    #[test]
    fn sizes_are_rounded_up_to_lines() {
        assert_eq!(Ring::new(1).capacity(), 64);
        assert_eq!(Ring::memory(65), 128);
        assert_eq!(Ring::occupied(0), 64);
        assert_eq!(Ring::occupied(64), 64);
        assert_eq!(Ring::occupied(65), 128);
    }
}

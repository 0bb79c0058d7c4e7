//! Links of lists, each with a check that is bound to its place.
//!
//! A link that flips hands out a block or slot that is in use, or loses half of a list: damage that would
//! show up much later and somewhere else. So each is verified when it is followed.

use alloc::boxed::Box;

use bytemuck::{Pod, Zeroable};

use super::NONE;

/// Where a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Link {
    to: u32,
    check: u32,
}

impl Link {
    /// The link at place `at`.
    pub(super) const fn new(at: u32, to: u32) -> Self {
        Self {
            to,
            check: Self::computed_check(at, to),
        }
    }

    /// For a given place no two links have the same check: whatever happens to either word, and to that
    /// alone, is found for certain.
    const fn computed_check(at: u32, to: u32) -> u32 {
        (to ^ at.rotate_left(16) ^ 0x85EB_CA6B).wrapping_mul(0x9E37_79B1)
    }

    /// Where the link at place `at` leads, if it is what was written.
    #[inline]
    pub(super) const fn open(self, at: u32) -> Option<u32> {
        if self.check == Self::computed_check(at, self.to) {
            Some(self.to)
        } else {
            None
        }
    }
}

/// `count` links that lead nowhere.
pub(super) fn ends(count: u32) -> Box<[Link]> {
    (0..count).map(|at| Link::new(at, NONE)).collect()
}

/// A list of `count` places, in order.
pub(super) fn in_order(count: u32) -> Box<[Link]> {
    (0..count)
        .map(|at| Link::new(at, after(at, count)))
        .collect()
}

/// The place after `at` in a list in order.
pub(super) const fn after(at: u32, count: u32) -> u32 {
    if at + 1 == count { NONE } else { at + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_link_is_found_and_so_is_a_link_in_another_place() {
        for (at, to) in [(0, 1), (7, NONE), (1 << 20, 3), (0, 0)] {
            let link = Link::new(at, to);
            assert_eq!(link.open(at), Some(to));
            assert_eq!(link.open(at ^ 1), None);
            for bit in 0..64 {
                let mut bytes: [u8; 8] = bytemuck::cast(link);
                bytes[bit / 8] ^= 1 << (bit % 8);
                let flipped: Link = bytemuck::cast(bytes);
                assert_eq!(flipped.open(at), None, "bit {bit}");
            }
        }
    }
}

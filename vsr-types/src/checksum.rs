//! One checksum for everything, behind one function.
//!
//! CRC-32C, in hardware on every machine this runs on: it finds all errors of up to three flipped
//! bits in bodies up to 2^31 bits and any burst up to 32 bits, which is the fault we defend against
//! (memory and network that lie by accident, not by intent). The polynomial is Castagnoli's (1993).
//! Everything else in the workspace calls [`checksum`], so that the implementation can change in
//! one place.

use bytemuck::{Pod, Zeroable};

/// A CRC-32C of some bytes. 4 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Checksum(u32);

impl Checksum {
    /// Wraps a raw value that was computed elsewhere or read from a header.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw value.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// The checksum of `bytes`.
#[must_use]
#[inline]
pub fn checksum(bytes: &[u8]) -> Checksum {
    Checksum(crc32c::crc32c(bytes))
}

/// The checksum of bytes that do not lie in one piece.
///
/// `Hasher::new().update(a).update(b).finish()` equals [`checksum`] of `a` followed by `b`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hasher(u32);

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Continues over `bytes`.
    #[must_use]
    #[inline]
    pub fn update(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// The checksum of everything seen.
    #[must_use]
    pub const fn finish(self) -> Checksum {
        Checksum(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer_of_rfc_3720() {
        // RFC 3720 appendix B.4: 32 bytes of zeroes, and of ones.
        assert_eq!(checksum(&[0; 32]).raw(), 0x8A91_36AA);
        assert_eq!(checksum(&[0xFF; 32]).raw(), 0x62A8_AB43);
    }

    #[test]
    fn pieces_equal_the_whole() {
        let bytes: [u8; 200] = core::array::from_fn(|i| (i * 7) as u8);
        for cut in 0..=bytes.len() {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(Hasher::new().update(a).update(b).finish(), checksum(&bytes));
        }
    }

    #[test]
    fn every_single_bit_matters() {
        let mut bytes = [0x5A_u8; 128];
        let before = checksum(&bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(&bytes), before, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

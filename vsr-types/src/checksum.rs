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
    Checksum(append(0, bytes))
}

/// The checksum of `bytes` without the first four of them.
///
/// Our layouts are whole words and begin with their own checksum, which covers what is behind it. A
/// processor takes eight bytes at a time, and the four that are left of the first word one by one, which
/// takes as long as half of a header. So the first word is taken whole, from a state that its first half
/// turns into the fresh one: the same sum, bit for bit.
///
/// # Panics
/// When there are fewer than four.
#[must_use]
#[inline]
pub fn checksum_behind_first(bytes: &[u8]) -> Checksum {
    let (first, _) = bytes
        .split_first_chunk()
        .expect("the caller has a whole layout");
    Checksum(append(!(BEFORE ^ u32::from_le_bytes(*first)), bytes))
}

/// The state that four zero bytes turn into the fresh one: the register is run backwards, 32 steps.
/// Other bytes are added to the state before they are shifted out of it.
const BEFORE: u32 = {
    let mut state = !0_u32;
    let mut step = 0;
    while step < 32 {
        // The polynomial, reversed, has its highest bit set: so that bit says whether it was added.
        state = if state >> 31 == 1 {
            (state ^ POLYNOMIAL) << 1 | 1
        } else {
            state << 1
        };
        step += 1;
    }
    state
};

/// Castagnoli's, bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The checksum of the four bytes of `word`, from tables: for so few bytes that is faster than to ask
/// whether the processor has an instruction.
#[must_use]
#[inline]
pub(crate) fn checksum_of_word(word: u32) -> Checksum {
    let mut sum = 0;
    for (place, table) in OF_NIBBLES.iter().enumerate() {
        sum ^= table[((!word >> (4 * place)) & 0xF) as usize];
    }
    Checksum(!sum)
}

/// What each nibble at each place adds to the sum of four bytes, which is linear in them.
const OF_NIBBLES: [[u32; 16]; 8] = {
    let mut tables = [[0; 16]; 8];
    let mut at = 0;
    while at < 8 * 16 {
        let mut state = (at as u32 % 16) << (4 * (at / 16));
        let mut step = 0;
        while step < 32 {
            state = (state >> 1) ^ (POLYNOMIAL & (state & 1).wrapping_neg());
            step += 1;
        }
        tables[at / 16][at % 16] = state;
        at += 1;
    }
    tables
};

/// Continues the sum `crc` over `bytes`.
#[inline]
fn append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse4.2"))]
    if bytes.len() < LANES_FROM {
        return append_serially(crc, bytes);
    }
    crc32c::crc32c_append(crc, bytes)
}

/// From here on the crate `crc32c` computes in three lanes. Below, it does what
/// [`append_serially`] does, behind a call that asks for the processor's features and takes longer
/// than the sum itself: most of our sums are over a header or a small request.
#[cfg(all(target_arch = "x86_64", target_feature = "sse4.2"))]
const LANES_FROM: usize = 768;

/// The processor's instruction, without a question whether there is one: the build says so
/// (`.cargo/config.toml`). Where it does not, the crate is asked, with the same result.
#[cfg(all(target_arch = "x86_64", target_feature = "sse4.2"))]
#[inline]
fn append_serially(crc: u32, bytes: &[u8]) -> u32 {
    // What is no whole word comes first. Our layouts are whole words that begin with their own
    // checksum, which is left out: so the loads below are those of aligned fields, which a processor
    // forwards from the stores that have only just been made.
    let (odd, words) = bytes.as_rchunks::<8>();
    let (halves, odd) = odd.as_chunks::<4>();
    let mut sum = !crc;
    for half in halves {
        sum = safe_arch::crc32_u32(sum, u32::from_le_bytes(*half));
    }
    for &byte in odd {
        sum = safe_arch::crc32_u8(sum, byte);
    }
    let mut sum = u64::from(sum);
    for word in words {
        sum = safe_arch::crc32_u64(sum, u64::from_le_bytes(*word));
    }
    // The instruction leaves the upper half empty.
    !(sum as u32)
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
        Self(append(self.0, bytes))
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
    fn every_length_and_alignment_has_the_sum_of_the_definition() {
        // Bit by bit, as Castagnoli's polynomial says.
        let by_definition = |bytes: &[u8]| {
            !bytes.iter().fold(!0_u32, |sum, &byte| {
                (0..8).fold(sum ^ u32::from(byte), |sum, _| {
                    (sum >> 1) ^ (POLYNOMIAL & (sum & 1).wrapping_neg())
                })
            })
        };
        let bytes: [u8; 1600] = core::array::from_fn(|i| (i * i * 31 + i) as u8);
        for start in 0..8 {
            for end in (start..start + 300)
                .chain(760..780)
                .chain([1535, 1536, 1600])
            {
                let bytes = &bytes[start..end];
                assert_eq!(
                    checksum(bytes).raw(),
                    by_definition(bytes),
                    "{start}..{end}"
                );
            }
        }
    }

    #[test]
    fn what_is_behind_the_first_four_bytes_has_its_own_sum() {
        let bytes: [u8; 300] = core::array::from_fn(|i| (i * i * 7 + 3 * i) as u8);
        for start in 0..8 {
            for end in start + 4..300 {
                let bytes = &bytes[start..end];
                assert_eq!(checksum_behind_first(bytes), checksum(&bytes[4..]));
            }
        }
    }

    #[test]
    fn the_sum_of_a_word_is_that_of_its_bytes() {
        let words = (0..32).map(|bit| 1 << bit).chain([0, !0, 0x0123_4567]);
        for word in words {
            assert_eq!(checksum_of_word(word), checksum(&word.to_le_bytes()));
        }
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

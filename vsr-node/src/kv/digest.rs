//! The digest of an entry, and the hash of a key.
//!
//! The digest of the state is the sum (modulo 2^128) of one 128-bit number per entry, mixed with the
//! machine's counters: adding an entry adds its number, removing one subtracts it, so a change costs
//! what the changed entry costs and the order in which a state came about does not matter.
//!
//! An entry's number comes from its key, value, deadline and version, read once, 16 bytes at a time,
//! by lanes that multiply 64 by 64 bits and fold the product (the step of wyhash). Why so, and
//! not from the CRC: the CRC is 32 bits wide and linear, so sums of functions of it would meet after
//! 2^16 changes; why not a cryptographic hash: replicas that diverge by accident are the fault to
//! find (N16), and 128 bytes would cost ten times as much. Nobody can rely on it against an
//! adversary who chooses entries so that sums collide.

const K: [u64; 4] = [
    0xA076_1D64_78BD_642F,
    0xE703_7ED1_A0B4_28DB,
    0x8EBC_6AF0_9C88_C6E3,
    0x5899_65CC_7537_4CC3,
];

#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"))
}

/// The last, incomplete 16 bytes, filled up with zeroes.
#[inline]
fn tail(bytes: &[u8]) -> (u64, u64) {
    let mut last = [0; 16];
    last[..bytes.len()].copy_from_slice(bytes);
    (word(&last), word(&last[8..]))
}

#[inline]
fn absorb(lanes: (u64, u64), x: u64, y: u64) -> (u64, u64) {
    (fold(x ^ lanes.0, y ^ K[0]), fold(y ^ lanes.1, x ^ K[1]))
}

/// The number that an entry adds to the digest. `content` is the key directly followed by the value.
#[inline]
pub(super) fn of_entry(content: &[u8], key_size: usize, deadline: u64, version: u64) -> u128 {
    // Two pairs of lanes: the products of one pair do not wait for those of the other.
    let mut even = (K[2] ^ content.len() as u64, K[3] ^ key_size as u64);
    let mut odd = (K[1] ^ deadline, K[0] ^ version);
    let mut pieces = content.chunks_exact(32);
    for piece in &mut pieces {
        even = absorb(even, word(piece), word(&piece[8..]));
        odd = absorb(odd, word(&piece[16..]), word(&piece[24..]));
    }
    let mut rest = pieces.remainder();
    if rest.len() >= 16 {
        even = absorb(even, word(rest), word(&rest[8..]));
        rest = &rest[16..];
    }
    let (x, y) = tail(rest);
    odd = absorb(odd, x, y);
    finish(absorb(even, odd.0, odd.1))
}

/// The digest of bytes that are no entry: a chunk of the image.
pub(crate) fn of_bytes(bytes: &[u8]) -> u128 {
    of_entry(bytes, 0, 0, 0)
}

/// Mixes the counters into the sum over the entries.
pub(super) fn of_state(sum: u128, counters: &[u64]) -> u128 {
    let mut lanes = (sum as u64 ^ K[2], (sum >> 64) as u64 ^ K[3]);
    for counter in counters {
        lanes = absorb(lanes, *counter, K[0]);
    }
    finish(lanes)
}

#[inline]
fn finish(lanes: (u64, u64)) -> u128 {
    let low = fold(lanes.0 ^ K[1], lanes.1 ^ K[3]);
    let high = fold(lanes.1 ^ K[2], lanes.0.rotate_left(32) ^ K[0]);
    (u128::from(high) << 64) | u128::from(low)
}

/// The hash of a key, for the table: its low bits choose the bucket.
#[inline]
pub(super) fn of_key(key: &[u8], seed: u64) -> u32 {
    let mut hash = fold(seed ^ K[0], key.len() as u64 ^ K[1]);
    let mut pieces = key.chunks_exact(16);
    for piece in &mut pieces {
        hash = fold(word(piece) ^ hash, word(&piece[8..]) ^ K[2]);
    }
    let rest = pieces.remainder();
    if !rest.is_empty() {
        let (x, y) = tail(rest);
        hash = fold(x ^ hash, y ^ K[3]);
    }
    fold(hash, K[1]) as u32
}

/// Sixty-four well mixed bits from two numbers: the machine's only randomness.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    fold(fold(a ^ K[0], b ^ K[1]), K[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_an_entry_changes_its_digest() {
        let mut content: [u8; 61] = std::array::from_fn(|i| i as u8);
        let before = of_entry(&content, 16, 5, 9);
        for bit in 0..content.len() * 8 {
            content[bit / 8] ^= 1 << (bit % 8);
            let after = of_entry(&content, 16, 5, 9);
            assert!((before ^ after).count_ones() > 30, "bit {bit} avalanches");
            content[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..64 {
            assert_ne!(of_entry(&content, 16, 5 ^ (1 << bit), 9), before);
            assert_ne!(of_entry(&content, 16, 5, 9 ^ (1 << bit)), before);
        }
        assert_ne!(
            of_entry(&content, 15, 5, 9),
            before,
            "where the key ends counts"
        );
        assert_ne!(of_entry(&content[..60], 16, 5, 9), before);
    }

    #[test]
    fn zeroes_of_different_lengths_differ() {
        let zeroes = [0; 64];
        let mut seen = Vec::new();
        for size in 0..=64 {
            let digest = of_entry(&zeroes[..size], 0, 0, 0);
            assert!(!seen.contains(&digest), "{size} zeroes");
            seen.push(digest);
        }
    }

    #[test]
    fn keys_spread_over_buckets_whatever_the_seed() {
        for seed in [0, 1, u64::MAX] {
            let mut buckets = [0_u32; 256];
            for i in 0..25_600 {
                let key = format!("key:{i}");
                buckets[(of_key(key.as_bytes(), seed) & 255) as usize] += 1;
            }
            // A hundred on average; a good hash stays within six deviations.
            assert!(
                buckets.iter().all(|count| (40..=160).contains(count)),
                "{buckets:?}"
            );
        }
    }
}

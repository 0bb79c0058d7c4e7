//! Where everything lies in the arena.
//!
//! ```text
//! 0          512             4,608          8,704            TABLE_AT                 heap
//! | Globals  | free lists'   | wheel's       |               | buckets, 8 bytes each | blocks ... | wilderness
//! |          | heads (4 KiB) | heads (4 KiB) |               |                       |            |
//! ```
//!
//! Heap memory is counted in granules of 16 bytes and addressed by a [`Place`], the number of a
//! granule from the arena's start, so that 32 bits reach 32 GiB. Place 0 is the header and therefore
//! means "none". Bytes at and after `heap_end` (the wilderness) are not part of the state: nothing
//! reads them before it has written them, so what an earlier life left there does not matter.
//!
//! Every word that steers the machine carries a check: links, heads and block headers a multiplicative
//! one beside them, entries a CRC-32C, and [`Globals`] is held twice and compared. Every other byte is
//! zero: the gaps, the buckets not in use, what follows an entry in its block, and free blocks behind
//! their links. So each byte of the image can be judged where it lies, and a flipped bit is found
//! wherever it is.

use bytemuck::{Pod, Zeroable};

/// The unit of the heap, in bytes: small enough that rounding up wastes 8 bytes on average, large
/// enough that 32 bits address 32 GiB.
pub(super) const GRANULE: usize = 16;
/// The largest arena: places have 32 bits, of which a block's size gives one away as a flag.
pub(super) const ARENA_SIZE_MAX: usize = (1 << 31) * GRANULE;
/// Size classes of the allocator: first level (powers of two) and second (16 steps in each).
pub(super) const FIRST_LEVELS: usize = 32;
/// See [`FIRST_LEVELS`].
pub(super) const SECOND_LEVELS: usize = 16;
/// Levels of the timing wheel. 64^8 ms are 8,900 years; later deadlines wait in its last slot.
pub(super) const WHEEL_LEVELS: usize = 8;
/// Slots of each level.
pub(super) const WHEEL_SLOTS: usize = 64;

/// The free lists' heads.
pub(super) const FREE_HEADS_AT: usize = 512;
/// The wheel's heads.
pub(super) const WHEEL_HEADS_AT: usize = FREE_HEADS_AT + FIRST_LEVELS * SECOND_LEVELS * HEAD_SIZE;
/// Behind them.
pub(super) const HEADS_END: usize = WHEEL_HEADS_AT + WHEEL_LEVELS * WHEEL_SLOTS * HEAD_SIZE;
/// The table.
pub(super) const TABLE_AT: usize = 12 * 1024;
/// The size of a head: of a list, or of a bucket of the table.
pub(super) const HEAD_SIZE: usize = size_of::<Head>();

const _: () = assert!(size_of::<Globals>() <= FREE_HEADS_AT);
const _: () = assert!(HEADS_END <= TABLE_AT && TABLE_AT.is_multiple_of(GRANULE));

/// One bucket for so many bytes of memory: about one entry per bucket when the arena is full of
/// small entries, at a sixteenth of the memory.
const BYTES_PER_BUCKET: usize = 128;

/// Says that the arena was written by this format of this machine.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"vsr-kv-2");

/// The buckets that an empty table uses: a page or two.
pub(super) const BUCKETS_MIN: u64 = 1024;

/// How many buckets an arena of `size` bytes has room for. It uses as many as it has had keys.
pub(super) const fn capacity_of(size: usize) -> u64 {
    let wanted = size / BYTES_PER_BUCKET;
    1 << wanted.ilog2()
}

/// The number of a granule. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Place(u32);

impl Place {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn new(raw: u32) -> Self {
        Self(raw)
    }

    pub(super) const fn raw(self) -> u32 {
        self.0
    }

    #[inline]
    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// As an offset in bytes.
    #[inline]
    pub(super) const fn at(self) -> usize {
        self.0 as usize * GRANULE
    }

    #[inline]
    pub(super) const fn after(self, granules: u32) -> Self {
        Self(self.0 + granules)
    }

    #[inline]
    pub(super) const fn before(self, granules: u32) -> Self {
        Self(self.0 - granules)
    }
}

/// What the machine knows besides its entries. The working copy is a field of the machine; the
/// other lies at the start of the arena, is written at the end of each operation and compared with
/// the first at the start of the next: a bit that flipped in either is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Globals {
    pub(super) magic: u64,
    /// The size of the arena: the memory limit, equal on all replicas.
    pub(super) limit: u64,
    /// The buckets in use.
    pub(super) buckets: u64,
    /// The buckets there is room for; follows from the limit.
    pub(super) capacity: u64,
    /// The table's hash seed; zero until the first operation, from which it is drawn.
    pub(super) seed: u64,
    /// How many entries there are, expired ones that wait for the sweep included.
    pub(super) keys: u64,
    /// How many of them have a deadline.
    pub(super) expiring: u64,
    /// The version given last: one for each change of a key.
    pub(super) version: u64,
    /// Granules in use by entries.
    pub(super) used: u64,
    /// Where the wilderness begins, in granules.
    pub(super) heap_end: u64,
    /// The size of the last block before it, in granules.
    pub(super) last_size: u64,
    /// The sum of the entries' digests.
    pub(super) sum_low: u64,
    /// See `sum_low`.
    pub(super) sum_high: u64,
    /// The wheel's time, in milliseconds.
    pub(super) elapsed: u64,
    /// The wheel's slot (level * 64 + slot + 1) that a sweep left half emptied, or zero.
    pub(super) draining: u64,
    /// Which of the allocator's first levels have free blocks.
    pub(super) first: u64,
    /// Which slots of the wheel hold entries.
    pub(super) wheel: [u64; WHEEL_LEVELS],
    /// Which of the allocator's second levels have free blocks.
    pub(super) second: [u16; FIRST_LEVELS],
}

impl Globals {
    /// Those of an empty arena.
    pub(super) fn empty(size: usize) -> Self {
        let capacity = capacity_of(size);
        Self {
            magic: MAGIC,
            limit: size as u64,
            buckets: BUCKETS_MIN,
            capacity,
            heap_end: u64::from(heap_start(capacity).raw()),
            ..Self::zeroed()
        }
    }

    pub(super) const fn sum(&self) -> u128 {
        ((self.sum_high as u128) << 64) | self.sum_low as u128
    }

    pub(super) const fn set_sum(&mut self, sum: u128) {
        self.sum_low = sum as u64;
        self.sum_high = (sum >> 64) as u64;
    }

    #[inline]
    pub(super) const fn heap_start(&self) -> Place {
        heap_start(self.capacity)
    }

    #[inline]
    pub(super) const fn heap_end(&self) -> Place {
        Place(self.heap_end as u32)
    }
}

const fn heap_start(capacity: u64) -> Place {
    Place(((TABLE_AT + capacity as usize * HEAD_SIZE) / GRANULE) as u32)
}

/// The start of every block of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Block {
    /// The size in granules, times two, plus one when it is free.
    size: u32,
    /// The size of the block before it, in granules; zero for the first.
    pub(super) previous: u32,
    check: u32,
}

impl Block {
    #[inline]
    pub(super) const fn new(granules: u32, free: bool, previous: u32) -> Self {
        let size = granules << 1 | free as u32;
        Self {
            size,
            previous,
            check: check(size as u64 | (previous as u64) << 32),
        }
    }

    #[inline]
    pub(super) const fn granules(self) -> u32 {
        self.size >> 1
    }

    #[inline]
    pub(super) const fn is_free(self) -> bool {
        self.size & 1 == 1
    }

    #[inline]
    pub(super) const fn is_sound(self) -> bool {
        self.size > 1 && self.check == check(self.size as u64 | (self.previous as u64) << 32)
    }
}

/// What follows the block's start: how the block hangs together with others. In a free block `next`
/// and `due_previous` link the free list and the rest is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Links {
    /// The next entry of the same bucket.
    pub(super) next: Place,
    /// The next entry of the same slot of the wheel.
    pub(super) due_next: Place,
    /// The previous one.
    pub(super) due_previous: Place,
    /// The slot of the wheel (level * 64 + slot + 1), zero when the entry has no deadline.
    pub(super) due_slot: u32,
    /// The key's hash. Here, and not with the entry's content, so that an entry that is
    /// passed over is known to be another one without reading all of it.
    pub(super) hash: u32,
    pub(super) check: u32,
}

impl Links {
    #[inline]
    pub(super) const fn sealed(mut self) -> Self {
        self.check = self.compute();
        self
    }

    #[inline]
    pub(super) const fn is_sound(&self) -> bool {
        self.check == self.compute()
    }

    const fn compute(&self) -> u32 {
        let a = check(self.next.0 as u64 | (self.due_next.0 as u64) << 32);
        let b = check(self.due_previous.0 as u64 | (self.due_slot as u64) << 32);
        a ^ b.rotate_left(11) ^ self.hash.rotate_left(21)
    }
}

/// Where a list begins: the entries of a bucket, those of a slot of the wheel, free blocks of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Head {
    pub(super) first: Place,
    check: u32,
}

impl Head {
    #[inline]
    pub(super) const fn new(first: Place) -> Self {
        Self {
            first,
            check: check(first.0 as u64),
        }
    }

    #[inline]
    pub(super) const fn is_sound(self) -> bool {
        self.check == check(self.first.0 as u64)
    }
}

/// What an entry says about itself, right before its key and value. With them it is covered by the
/// entry's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Body {
    /// When it was changed last, as the number of the change.
    pub(super) version: u64,
    /// Milliseconds since the Unix epoch at which it is gone; zero for never.
    pub(super) deadline: u64,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
}

/// Offsets inside an entry's block.
pub(super) const LINKS_AT: usize = size_of::<Block>();
/// Behind the links. A free block is zero from here on.
pub(super) const LINKS_END: usize = LINKS_AT + size_of::<Links>();
/// The entry's checksum.
pub(super) const CHECKSUM_AT: usize = LINKS_END;
/// From here to the value's end the checksum covers everything.
pub(super) const BODY_AT: usize = CHECKSUM_AT + 4;
/// The key, directly followed by the value.
pub(super) const KEY_AT: usize = BODY_AT + size_of::<Body>();

const _: () = assert!(KEY_AT == 64);

/// A check over 64 bits that finds every flipped bit, in one multiplication. Zero for zero, so that
/// memory never written is sound. The upper half of a product with an odd constant changes whenever
/// one bit of the other factor does.
#[inline]
const fn check(word: u64) -> u32 {
    (word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_link_or_header_is_noticed() {
        let block = Block::new(11, false, 4096);
        let head = Head::new(Place(77));
        let links = Links {
            next: Place(123_456),
            due_next: Place(1),
            due_previous: Place(1 << 31),
            due_slot: 12,
            hash: 0xDEAD_BEEF,
            check: 0,
        }
        .sealed();
        assert!(block.is_sound() && head.is_sound() && links.is_sound());
        assert!(Head::zeroed().is_sound() && Links::zeroed().is_sound());
        for bit in 0..96 {
            let mut copy = block;
            bytemuck::bytes_of_mut(&mut copy)[bit / 8] ^= 1 << (bit % 8);
            assert!(!copy.is_sound(), "bit {bit} of a block");
        }
        for bit in 0..64 {
            let mut copy = head;
            bytemuck::bytes_of_mut(&mut copy)[bit / 8] ^= 1 << (bit % 8);
            assert!(!copy.is_sound(), "bit {bit} of a head");
        }
        for bit in 0..192 {
            let mut copy = links;
            bytemuck::bytes_of_mut(&mut copy)[bit / 8] ^= 1 << (bit % 8);
            assert!(!copy.is_sound(), "bit {bit} of the links");
        }
    }
}

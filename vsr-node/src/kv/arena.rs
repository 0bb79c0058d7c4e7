//! The one piece of memory that holds the machine's state.
//!
//! A flat region of bytes, allocated at start and touched then, if that is wanted. Everything in it is addressed by offset,
//! so the same operations leave the same bytes on every replica, wherever the region lies. It also
//! notes, per chunk of the image, which op last wrote to it; that note lies outside the region,
//! because it is about the state and not part of it.

use bytemuck::{AnyBitPattern, NoUninit};
use vsr_types::memory::touch;

/// The size of the chunks in which the state is compared, repaired and transferred. 64 KiB:
/// checksums and copies run at full speed from there on, many chunks fit into a frame's budget, and
/// one changed byte does not cost more than a frame.
pub(super) const CHUNK_SIZE: usize = 64 * 1024;

/// The most threads that touch an arena: more only wait for each other in the system.
const TOUCHERS_MAX: usize = 8;
/// Less is not worth a thread.
const TOUCH_MIN: usize = 32 << 20;

/// Marks a chunk that an image being installed has brought.
const BROUGHT: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Arena {
    bytes: Box<[u8]>,
    changed: Box<[u64]>,
    op: u64,
}

impl Arena {
    /// Allocates `size` bytes, all zero. Their pages are there when they are first used.
    pub(super) fn new(size: usize) -> Self {
        Self {
            bytes: vec![0; size].into_boxed_slice(),
            changed: vec![0; Self::chunks(size)].into_boxed_slice(),
            op: 0,
        }
    }

    /// How many chunks `size` bytes are.
    pub(super) const fn chunks(size: usize) -> usize {
        size.div_ceil(CHUNK_SIZE)
    }

    /// Touches every page of a fresh arena, so that memory that is promised is there. The work is the
    /// system's, which does it for several threads at once.
    pub(super) fn touch(&mut self) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.bytes.len().div_ceil(threads.min(TOUCHERS_MAX));
        let (first, others) = self
            .bytes
            .split_at_mut(share.max(TOUCH_MIN).min(self.bytes.len()));
        std::thread::scope(|scope| {
            for bytes in others.chunks_mut(first.len()) {
                scope.spawn(|| touch(bytes));
            }
            touch(first);
        });
    }

    pub(super) const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// From here on, what is written is written by `op`.
    pub(super) const fn begin_op(&mut self, op: u64) {
        self.op = op;
    }

    #[inline]
    pub(super) fn read<T: AnyBitPattern>(&self, at: usize) -> T {
        bytemuck::pod_read_unaligned(&self.bytes[at..at + size_of::<T>()])
    }

    #[inline]
    pub(super) fn write<T: NoUninit>(&mut self, at: usize, value: &T) {
        let bytes = bytemuck::bytes_of(value);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.mark(at, bytes.len());
    }

    #[inline]
    pub(super) fn bytes(&self, at: usize, size: usize) -> &[u8] {
        &self.bytes[at..at + size]
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self, at: usize, size: usize) -> &mut [u8] {
        self.mark(at, size);
        &mut self.bytes[at..at + size]
    }

    /// Bytes whose place and number are not believed yet.
    #[inline]
    pub(super) fn get(&self, at: usize, size: usize) -> Option<&[u8]> {
        self.bytes.get(at..at.checked_add(size)?)
    }

    /// A byte, or zero beyond the end.
    #[inline]
    pub(super) fn peek(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Whether there is nothing there.
    pub(super) fn is_zero(&self, at: usize, size: usize) -> bool {
        // Sixteen words at a time, so that the compiler takes several in one instruction.
        let bytes = &self.bytes[at..at + size];
        let mut pieces = bytes.chunks_exact(128);
        let is_zero = pieces.all(|piece| {
            let words = piece.chunks_exact(8);
            words.fold(0, |any, word| {
                any | u64::from_le_bytes(*word.first_chunk().expect("eight"))
            }) == 0
        });
        is_zero && pieces.remainder().iter().fold(0, |any, byte| any | byte) == 0
    }

    pub(super) fn zero(&mut self, at: usize, size: usize) {
        if size > 0 {
            self.bytes_mut(at, size).fill(0);
        }
    }

    /// Copies `size` bytes inside the arena; the ranges may overlap.
    pub(super) fn copy(&mut self, from: usize, to: usize, size: usize) {
        self.bytes.copy_within(from..from + size, to);
        self.mark(to, size);
    }

    #[inline]
    fn mark(&mut self, at: usize, size: usize) {
        let first = at / CHUNK_SIZE;
        let last = (at + size.max(1) - 1) / CHUNK_SIZE;
        self.changed[first] = self.op;
        // Nearly every write stays inside one chunk.
        if last != first {
            self.changed[first + 1..=last].fill(self.op);
        }
    }

    /// Notes that the chunk with this byte is another one now, although nothing in it was written.
    pub(super) fn mark_changed(&mut self, at: usize) {
        self.mark(at, 1);
    }

    pub(super) fn changed_at(&self, chunk: usize) -> u64 {
        self.changed[chunk]
    }

    /// Writes a chunk of an image.
    pub(super) fn bring(&mut self, chunk: usize, bytes: &[u8]) {
        let start = chunk * CHUNK_SIZE;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.changed[chunk] = BROUGHT;
    }

    /// What was brought changed at `op` at the latest; what was not is as it was.
    pub(super) fn brought_at(&mut self, op: u64) {
        for changed in &mut self.changed {
            if *changed == BROUGHT {
                *changed = op;
            }
        }
        self.op = op;
    }

    /// Flips a bit without telling anybody: what the tests call a cosmic ray.
    #[cfg(any(test, feature = "flip"))]
    pub(super) fn flip(&mut self, at: usize, bit: u8) {
        self.bytes[at] ^= 1 << bit;
    }
}

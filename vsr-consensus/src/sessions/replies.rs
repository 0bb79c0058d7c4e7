//! The bytes of cached replies: fixed blocks in one pool, chained.
//!
//! A reply has any size up to a frame, but most are a few bytes, so reserving the largest size for
//! every session would take gigabytes. Blocks are handed out in an order that depends only on what
//! was stored and freed before, so the pools of replicas at the same op are equal.

use alloc::boxed::Box;
use alloc::vec;

use super::image::Changes;

/// The size of a block: small replies take one, a reply of a whole frame takes 4096.
pub(crate) const BLOCK_SIZE: usize = 256;

/// No block: an empty reply, or the end of a chain.
pub(crate) const NO_BLOCK: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Replies {
    pub(super) bytes: Box<[u8]>,
    pub(super) next: Box<[u32]>,
    pub(super) free: u32,
    pub(super) free_count: usize,
}

impl Replies {
    pub(crate) fn new(bytes: usize) -> Self {
        let blocks = bytes / BLOCK_SIZE;
        let count = u32::try_from(blocks).expect("the configuration bounds the replies");
        assert!(count < NO_BLOCK, "the configuration bounds the replies");
        let mut next: Box<[u32]> = (1..=count).collect();
        next[blocks - 1] = NO_BLOCK;
        Self {
            bytes: vec![0; blocks * BLOCK_SIZE].into_boxed_slice(),
            next,
            free: 0,
            free_count: blocks,
        }
    }

    pub(crate) const fn memory(bytes: usize) -> usize {
        let blocks = bytes / BLOCK_SIZE;
        blocks * (BLOCK_SIZE + size_of::<u32>())
    }

    pub(crate) const fn has_room(&self, size: usize) -> bool {
        size.div_ceil(BLOCK_SIZE) <= self.free_count
    }

    /// Stores `reply` and returns its first block.
    pub(super) fn write(&mut self, reply: &[u8], changes: &mut Changes) -> u32 {
        assert!(self.has_room(reply.len()), "the caller asked for room");
        let mut first = NO_BLOCK;
        let mut last = NO_BLOCK;
        for piece in reply.chunks(BLOCK_SIZE) {
            let block = self.free;
            self.free = self.next[block as usize];
            self.free_count -= 1;
            let start = block as usize * BLOCK_SIZE;
            self.bytes[start..start + piece.len()].copy_from_slice(piece);
            self.next[block as usize] = NO_BLOCK;
            changes.block(block);
            changes.link(block);
            match last {
                NO_BLOCK => first = block,
                // Its link is marked already.
                _ => self.next[last as usize] = block,
            }
            last = block;
        }
        first
    }

    /// Copies the reply that begins in `block` into `into`, which has its size.
    pub(crate) fn read(&self, mut block: u32, into: &mut [u8]) {
        for piece in into.chunks_mut(BLOCK_SIZE) {
            assert!(block != NO_BLOCK, "a chain is as long as its reply");
            let start = block as usize * BLOCK_SIZE;
            piece.copy_from_slice(&self.bytes[start..start + piece.len()]);
            block = self.next[block as usize];
        }
    }

    /// Frees the chain that begins in `block`.
    pub(super) fn free(&mut self, mut block: u32, changes: &mut Changes) {
        while block != NO_BLOCK {
            let next = self.next[block as usize];
            self.next[block as usize] = self.free;
            changes.link(block);
            self.free = block;
            self.free_count += 1;
            assert!(self.free_count <= self.next.len(), "a chain has no loop");
            block = next;
        }
    }

    /// How many bytes of the pool were ever written, for tests.
    #[cfg(test)]
    pub(crate) fn memory_in_use(&self) -> usize {
        (self.next.len() - self.free_count) * BLOCK_SIZE
    }

    /// Flips a bit, as memory does.
    #[cfg(test)]
    pub(crate) fn flip(&mut self, byte: usize, bit: usize) {
        self.bytes[byte] ^= 1 << bit;
    }
}

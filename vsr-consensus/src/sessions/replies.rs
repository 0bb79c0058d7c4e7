//! The bytes of cached replies: fixed blocks in one pool, chained.
//!
//! A reply has any size up to a frame, but most are a few bytes, so reserving the largest size for
//! every session would take gigabytes. Blocks are handed out in an order that depends only on what
//! was stored and freed before, so the pools of replicas at the same op are equal.

use alloc::boxed::Box;
use alloc::vec;

use super::image::Changes;
use super::links::{self, Link};

/// The size of a block: small replies take one, a reply of a whole frame takes 4096.
pub(crate) const BLOCK_SIZE: usize = 256;

/// No block: an empty reply, or the end of a chain.
pub(crate) const NO_BLOCK: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Replies {
    pub(super) bytes: Box<[u8]>,
    pub(super) next: Box<[Link]>,
    pub(super) free: u32,
    pub(super) free_count: usize,
    /// The fewest that were free.
    pub(super) least_free: usize,
}

impl Replies {
    pub(crate) fn new(bytes: usize) -> Self {
        let blocks = Self::blocks(bytes);
        let count = u32::try_from(blocks).expect("the configuration bounds the replies");
        assert!(count < NO_BLOCK, "the configuration bounds the replies");
        Self {
            bytes: vec![0; blocks * BLOCK_SIZE].into_boxed_slice(),
            next: links::in_order(count),
            free: 0,
            free_count: blocks,
            least_free: blocks,
        }
    }

    /// What a block takes, with the link to the next one.
    pub(super) const BLOCK: usize = BLOCK_SIZE + size_of::<Link>();

    /// How many blocks a pool of so many bytes has.
    pub(super) const fn blocks(bytes: usize) -> usize {
        bytes / BLOCK_SIZE
    }

    pub(crate) const fn has_room(&self, size: usize) -> bool {
        size.div_ceil(BLOCK_SIZE) <= self.free_count
    }

    /// Where the chain goes on after `block`; none when that is damaged.
    #[inline]
    fn after(&self, block: u32) -> Option<u32> {
        let next = self.next.get(block as usize)?.open(block)?;
        (next == NO_BLOCK || (next as usize) < self.next.len()).then_some(next)
    }

    /// Stores `reply` and returns its first block; none when the list of free blocks is damaged.
    pub(super) fn write(&mut self, reply: &[u8], changes: &mut Changes) -> Option<u32> {
        assert!(self.has_room(reply.len()), "the caller asked for room");
        let mut first = NO_BLOCK;
        let mut last = NO_BLOCK;
        for piece in reply.chunks(BLOCK_SIZE) {
            let block = self.free;
            self.free = self.after(block)?;
            self.free_count -= 1;
            let start = block as usize * BLOCK_SIZE;
            self.bytes[start..start + piece.len()].copy_from_slice(piece);
            self.next[block as usize] = Link::new(block, NO_BLOCK);
            changes.block(block);
            changes.link(block);
            match last {
                NO_BLOCK => first = block,
                // Its link is marked already.
                _ => self.next[last as usize] = Link::new(last, block),
            }
            last = block;
        }
        self.least_free = self.least_free.min(self.free_count);
        Some(first)
    }

    /// Puts `reply` into `block` if what is there and `reply` take one block each. Says whether it did:
    /// what freeing the one and writing the other would come to, with less ado. Most replies are small.
    #[inline]
    pub(super) fn replace(&mut self, block: u32, reply: &[u8], changes: &mut Changes) -> bool {
        let is_one = block != NO_BLOCK
            && (1..=BLOCK_SIZE).contains(&reply.len())
            && self.next[block as usize] == Link::new(block, NO_BLOCK);
        if is_one {
            let start = block as usize * BLOCK_SIZE;
            self.bytes[start..start + reply.len()].copy_from_slice(reply);
            changes.block(block);
        }
        is_one
    }

    /// Copies the reply that begins in `block` into `into`, which has its size; none when a link on the
    /// way is damaged.
    pub(crate) fn read(&self, mut block: u32, into: &mut [u8]) -> Option<()> {
        for piece in into.chunks_mut(BLOCK_SIZE) {
            let next = self.after(block)?;
            let start = block as usize * BLOCK_SIZE;
            piece.copy_from_slice(&self.bytes[start..start + piece.len()]);
            block = next;
        }
        Some(())
    }

    /// Frees the chain that begins in `block`; none when a link on the way is damaged.
    pub(super) fn free(&mut self, mut block: u32, changes: &mut Changes) -> Option<()> {
        while block != NO_BLOCK {
            let next = self.after(block)?;
            if self.free_count == self.next.len() {
                // A chain has no loop.
                return None;
            }
            self.next[block as usize] = Link::new(block, self.free);
            changes.link(block);
            self.free = block;
            self.free_count += 1;
            block = next;
        }
        Some(())
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

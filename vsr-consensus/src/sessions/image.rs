//! The session table as an image: chunks out, chunks in, and the proof that what came in is a table.
//!
//! Retries are answered from the table and evictions follow its order, so a replica that takes over
//! another's state needs the table *exactly*: which slot a client has (it is part of the digest), the
//! order of eviction, the order in which free slots and blocks will be handed out. The image is
//! therefore the memory itself, in four parts:
//!
//! ```text
//! chunk 0   1 ..          ..               ..
//! | ends  | slots:      | links of       | bytes of
//! | of    | entry,      | the replies'   | the replies'
//! | lists | list links  | blocks         | blocks
//! ```
//!
//! The index is not part of it: where a client stands in it decides nothing, and it is built anew.
//! Nothing that a peer sent is believed before [`Sessions::image_finish`] has followed every list; a
//! table that fails is emptied.

use alloc::boxed::Box;
use alloc::vec;
use core::ops::Range;

use bytemuck::{Pod, Zeroable};
use vsr_types::{Op, checksum, limits};

use super::links::{self, Link};
use super::replies::{BLOCK_SIZE, NO_BLOCK};
use super::{Entry, InFlight, NONE, Sessions};
use crate::ImageError;

/// The size of every chunk, unless its part ends in it.
pub(crate) const CHUNK_SIZE: usize = 64 << 10;

/// The ends of all lists, and the sizes they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Ends {
    oldest: u32,
    newest: u32,
    free: u32,
    count: u32,
    free_block: u32,
    free_blocks: u32,
    sessions: u32,
    blocks: u32,
}

/// One slot: its session, and its neighbours in the list it is in.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Slot {
    entry: Entry,
    older: Link,
    newer: Link,
}

const SLOTS_PER_CHUNK: usize = CHUNK_SIZE / size_of::<Slot>();
const LINKS_PER_CHUNK: usize = CHUNK_SIZE / size_of::<Link>();
const BLOCKS_PER_CHUNK: usize = CHUNK_SIZE / BLOCK_SIZE;

/// What lies in a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Ends,
    Slots(Range<usize>),
    Links(Range<usize>),
    Blocks(Range<usize>),
}

/// Where the parts of the image begin, in chunks.
#[derive(Clone, Copy, Debug)]
struct Parts {
    links: usize,
    blocks: usize,
    end: usize,
}

impl Parts {
    const fn of(sessions: usize, blocks: usize) -> Self {
        let links = 1 + sessions.div_ceil(SLOTS_PER_CHUNK);
        let bytes = links + blocks.div_ceil(LINKS_PER_CHUNK);
        Self {
            links,
            blocks: bytes,
            end: bytes + blocks.div_ceil(BLOCKS_PER_CHUNK),
        }
    }
}

/// Marks a chunk that an image being taken in has brought.
const BROUGHT: Op = Op::new(u64::MAX);

/// Which op last changed each chunk of the image. Marking costs a store into a few cache lines.
#[derive(Debug)]
pub(super) struct Changes {
    op: Op,
    parts: Parts,
    at: Box<[Op]>,
}

impl Changes {
    pub(super) fn new(sessions: usize, reply_bytes: usize) -> Self {
        let parts = Parts::of(sessions, reply_bytes / BLOCK_SIZE);
        Self {
            op: Op::ZERO,
            parts,
            at: vec![Op::ZERO; parts.end].into_boxed_slice(),
        }
    }

    /// How many chunks are remembered.
    pub(super) const fn count(sessions: usize, reply_bytes: usize) -> usize {
        Parts::of(sessions, reply_bytes / BLOCK_SIZE).end
    }

    /// From here on, what changes is changed by `op`.
    #[inline]
    pub(super) fn begin(&mut self, op: Op) {
        self.op = op;
        self.at[0] = op;
    }

    pub(super) const fn chunk_of_slot(&self, slot: u32) -> u64 {
        (1 + slot as usize / SLOTS_PER_CHUNK) as u64
    }

    pub(super) const fn chunk_of_link(&self, block: u32) -> u64 {
        (self.parts.links + block as usize / LINKS_PER_CHUNK) as u64
    }

    pub(super) const fn chunk_of_block(&self, block: u32) -> u64 {
        (self.parts.blocks + block as usize / BLOCKS_PER_CHUNK) as u64
    }

    /// The slot, or a link of it, changed.
    #[inline]
    pub(super) fn slot(&mut self, slot: u32) {
        self.at[self.chunk_of_slot(slot) as usize] = self.op;
    }

    /// The link of a block changed.
    #[inline]
    pub(super) fn link(&mut self, block: u32) {
        self.at[self.chunk_of_link(block) as usize] = self.op;
    }

    /// The bytes of a block changed.
    #[inline]
    pub(super) fn block(&mut self, block: u32) {
        self.at[self.chunk_of_block(block) as usize] = self.op;
    }
}

/// What a table needs besides its own memory while an image is taken in.
#[derive(Debug)]
pub(crate) struct SessionsImage {
    ends: Ends,
    /// A bit for each slot or block, to notice what is in two lists.
    seen: Box<[u64]>,
}

impl SessionsImage {
    pub(crate) fn new(sessions: usize, reply_bytes: usize) -> Self {
        Self {
            ends: Ends::zeroed(),
            seen: vec![0; Self::words(sessions, reply_bytes)].into_boxed_slice(),
        }
    }

    const fn words(sessions: usize, reply_bytes: usize) -> usize {
        let blocks = reply_bytes / BLOCK_SIZE;
        let most = if sessions > blocks { sessions } else { blocks };
        most.div_ceil(64)
    }

    /// The bytes that [`Self::new`] allocates.
    pub(crate) const fn memory(sessions: usize, reply_bytes: usize) -> usize {
        Self::words(sessions, reply_bytes) * size_of::<u64>()
    }
}

/// Sets a bit and says whether it was clear.
fn set(seen: &mut [u64], bit: u32) -> bool {
    let (word, mask) = (bit as usize / 64, 1 << (bit % 64));
    let is_new = seen[word] & mask == 0;
    seen[word] |= mask;
    is_new
}

impl Sessions {
    /// How many chunks the table's image has: always as many.
    pub(crate) const fn image_chunks(&self) -> u64 {
        self.changes.parts.end as u64
    }

    /// The op that last changed `chunk`, or a later one.
    pub(crate) fn image_changed_at(&self, chunk: u64) -> Op {
        self.changes.at[chunk as usize]
    }

    fn part(&self, chunk: u64) -> Option<Part> {
        let cut = |index: usize, size: usize, end: usize| index * size..end.min((index + 1) * size);
        let (slots, blocks) = (self.entries.len(), self.replies.next.len());
        let parts = self.changes.parts;
        let chunk = usize::try_from(chunk).ok()?;
        if chunk == 0 {
            Some(Part::Ends)
        } else if chunk < parts.links {
            Some(Part::Slots(cut(chunk - 1, SLOTS_PER_CHUNK, slots)))
        } else if chunk < parts.blocks {
            Some(Part::Links(cut(
                chunk - parts.links,
                LINKS_PER_CHUNK,
                blocks,
            )))
        } else if chunk < parts.end {
            Some(Part::Blocks(cut(
                chunk - parts.blocks,
                BLOCKS_PER_CHUNK,
                blocks,
            )))
        } else {
            None
        }
    }

    fn ends(&self) -> Ends {
        Ends {
            oldest: self.oldest,
            newest: self.newest,
            free: self.free,
            count: self.count as u32,
            free_block: self.replies.free,
            free_blocks: self.replies.free_count as u32,
            sessions: self.entries.len() as u32,
            blocks: self.replies.next.len() as u32,
        }
    }

    /// Copies `chunk` into `into` and returns its size.
    pub(crate) fn image_read(&self, chunk: u64, into: &mut [u8]) -> usize {
        let part = self.part(chunk).expect("the caller counted the chunks");
        match part {
            Part::Ends => {
                let ends = self.ends();
                into[..size_of::<Ends>()].copy_from_slice(bytemuck::bytes_of(&ends));
                size_of::<Ends>()
            }
            Part::Slots(slots) => {
                let size = slots.len() * size_of::<Slot>();
                for (slot, into) in slots.zip(into.chunks_exact_mut(size_of::<Slot>())) {
                    self.verify_slot(slot as u32);
                    let slot = Slot {
                        entry: self.entries[slot],
                        older: self.older[slot],
                        newer: self.newer[slot],
                    };
                    into.copy_from_slice(bytemuck::bytes_of(&slot));
                }
                size
            }
            Part::Links(blocks) => {
                blocks
                    .clone()
                    .for_each(|block| self.verify_link(block as u32));
                copy(bytemuck::cast_slice(&self.replies.next[blocks]), into)
            }
            Part::Blocks(blocks) => copy(&self.replies.bytes[bytes_of(&blocks)], into),
        }
    }

    /// Begins to replace the table by an image. What is not put stays what it was; until
    /// [`Self::image_finish`] there are no sessions.
    pub(crate) fn image_begin(&mut self, image: &mut SessionsImage) {
        image.ends = self.ends();
        self.close();
        self.damage.clear();
    }

    /// No sessions; the memory of their slots and blocks is left as it is.
    fn close(&mut self) {
        self.oldest = NONE;
        self.newest = NONE;
        self.count = 0;
        self.digest = 0;
        self.index.fill(NONE);
        self.in_flight.fill(InFlight::default());
    }

    /// Empty, as at the very beginning.
    pub(crate) fn reset(&mut self) {
        self.close();
        self.entries.fill(Entry::zeroed());
        for (at, link) in (0..).zip(self.older.iter_mut()) {
            *link = Link::new(at, NONE);
        }
        link_up(&mut self.newer);
        self.free = 0;
        link_up(&mut self.replies.next);
        self.replies.free = 0;
        self.replies.free_count = self.replies.next.len();
        self.changes.at.fill(BROUGHT);
    }

    /// Takes one chunk, in any order, possibly again.
    pub(crate) fn image_put(
        &mut self,
        image: &mut SessionsImage,
        chunk: u64,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let part = self.part(chunk).ok_or(ImageError::BadChunk)?;
        self.changes.at[chunk as usize] = BROUGHT;
        match part {
            Part::Ends => {
                let is_right_size = bytes.len() == size_of::<Ends>();
                let ends: Ends = is_right_size
                    .then(|| bytemuck::pod_read_unaligned(bytes))
                    .ok_or(ImageError::BadChunk)?;
                if (ends.sessions, ends.blocks) != (image.ends.sessions, image.ends.blocks) {
                    return Err(ImageError::BadChunk);
                }
                image.ends = ends;
                Ok(())
            }
            Part::Slots(slots) => {
                if bytes.len() != slots.len() * size_of::<Slot>() {
                    return Err(ImageError::BadChunk);
                }
                for (slot, bytes) in slots.zip(bytes.chunks_exact(size_of::<Slot>())) {
                    let put: Slot = bytemuck::pod_read_unaligned(bytes);
                    self.entries[slot] = put.entry;
                    self.older[slot] = put.older;
                    self.newer[slot] = put.newer;
                }
                Ok(())
            }
            Part::Links(blocks) => put(
                bytemuck::cast_slice_mut(&mut self.replies.next[blocks]),
                bytes,
            ),
            Part::Blocks(blocks) => put(&mut self.replies.bytes[bytes_of(&blocks)], bytes),
        }
    }

    /// Ends the replacement: the table is now that of the image, taken at `at`, every list followed,
    /// every entry and reply verified. If anything is wrong the table is empty. `buffer` holds the
    /// largest reply.
    pub(crate) fn image_finish(
        &mut self,
        image: &mut SessionsImage,
        at: Op,
        buffer: &mut [u8],
    ) -> Result<(), ImageError> {
        let taken = self.take_image(image, at, buffer);
        if taken.is_none() {
            self.reset();
        }
        // What came changed at `at` at the latest; what did not is as it was.
        for changed in &mut self.changes.at {
            if *changed == BROUGHT {
                *changed = at;
            }
        }
        self.changes.op = at;
        self.damage.clear();
        taken.ok_or(ImageError::Invalid)
    }

    fn take_image(&mut self, image: &mut SessionsImage, at: Op, buffer: &mut [u8]) -> Option<()> {
        let SessionsImage { ends, seen } = image;
        seen.fill(0);
        self.take_sessions(ends, at, seen)?;
        self.take_free_slots(ends, seen)?;
        seen.fill(0);
        self.take_replies(ends, seen, buffer)
    }

    /// Follows the list of sessions, oldest first, and builds index and digest.
    fn take_sessions(&mut self, ends: &Ends, at: Op, seen: &mut [u64]) -> Option<()> {
        let (mut slot, mut older) = (ends.oldest, NONE);
        let mut last = (Op::ZERO, 0);
        while slot != NONE {
            let entry = *self.entries.get(slot as usize)?;
            let is_sound = entry.is_sound()
                && self.older[slot as usize].open(slot) == Some(older)
                && entry.op <= at
                && entry.reply_size as usize <= limits::REPLY_SIZE_MAX
                && (self.count == 0 || (entry.op, entry.index) > last);
            if !is_sound || !set(seen, slot) {
                return None;
            }
            let place = self.probe(entry.client)?;
            if self.index[place] != NONE {
                // A client has at most one session.
                return None;
            }
            self.put(place, slot);
            self.digest = self.digest.wrapping_add(entry.digest(slot));
            self.count += 1;
            last = (entry.op, entry.index);
            older = slot;
            slot = self.newer[slot as usize].open(slot)?;
        }
        self.oldest = ends.oldest;
        self.newest = ends.newest;
        self.most = self.most.max(self.count);
        (self.newest == older && self.count == ends.count as usize).then_some(())
    }

    /// Follows the list of free slots: every slot that no session has is in it, once.
    fn take_free_slots(&mut self, ends: &Ends, seen: &mut [u64]) -> Option<()> {
        let mut slot = ends.free;
        let mut left = self.entries.len() - self.count;
        while slot != NONE {
            if slot as usize >= self.entries.len() || !set(seen, slot) {
                return None;
            }
            self.older[slot as usize].open(slot)?;
            self.entries[slot as usize] = Entry::zeroed();
            left = left.checked_sub(1)?;
            slot = self.newer[slot as usize].open(slot)?;
        }
        self.free = ends.free;
        (left == 0).then_some(())
    }

    /// Follows the blocks of every reply, and the free ones: every block is in one list, once.
    fn take_replies(&mut self, ends: &Ends, seen: &mut [u64], buffer: &mut [u8]) -> Option<()> {
        let blocks = self.replies.next.len();
        let mut follow = |next: &[Link], mut block: u32| {
            let mut count = 0;
            while block != NO_BLOCK {
                if block as usize >= blocks || !set(seen, block) {
                    return None;
                }
                count += 1;
                block = next[block as usize].open(block)?;
            }
            Some(count)
        };
        let free = follow(&self.replies.next, ends.free_block)?;
        let mut used = 0;
        let mut slot = self.oldest;
        while slot != NONE {
            let entry = self.entries[slot as usize];
            let size = entry.reply_size as usize;
            let count = follow(&self.replies.next, entry.reply_block)?;
            let reply = buffer.get_mut(..size)?;
            if count != size.div_ceil(BLOCK_SIZE) {
                return None;
            }
            self.replies.read(entry.reply_block, reply)?;
            if checksum(reply) != entry.reply_checksum {
                return None;
            }
            used += count;
            slot = self.newer[slot as usize].open(slot)?;
        }
        self.replies.free = ends.free_block;
        self.replies.free_count = free;
        (free == ends.free_blocks as usize && free + used == blocks).then_some(())
    }
}

/// A list of all places, in order.
fn link_up(next: &mut [Link]) {
    let count = next.len() as u32;
    for (at, next) in (0..count).zip(next.iter_mut()) {
        *next = Link::new(at, links::after(at, count));
    }
}

fn bytes_of(blocks: &Range<usize>) -> Range<usize> {
    blocks.start * BLOCK_SIZE..blocks.end * BLOCK_SIZE
}

fn copy(from: &[u8], into: &mut [u8]) -> usize {
    into[..from.len()].copy_from_slice(from);
    from.len()
}

fn put(into: &mut [u8], bytes: &[u8]) -> Result<(), ImageError> {
    if into.len() != bytes.len() {
        return Err(ImageError::BadChunk);
    }
    into.copy_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests;

//! What of the table is damaged: noted when it is met, looked for by the scrubber.
//!
//! Damage is named as chunks of the image, because that is how it is repaired: from a peer that has
//! executed as much (M3).

use core::cell::Cell;
use core::ops::Range;

use bytemuck::Zeroable;

use super::links::Link;
use super::replies::{BLOCK_SIZE, NO_BLOCK};
use super::{Entry, NONE, Sessions};
use vsr_types::checksum;

/// The first damage that was met since somebody asked: from this chunk to before that one.
#[derive(Debug, Default)]
pub(super) struct Mark(Cell<Option<(u64, u64)>>);

impl Mark {
    #[inline]
    pub(super) const fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    fn set(&self, chunks: Range<u64>) {
        if !self.is_set() {
            self.0.set(Some((chunks.start, chunks.end)));
        }
    }

    pub(super) fn clear(&self) {
        self.0.set(None);
    }
}

/// What the scrubber saw of the table.
#[derive(Clone, Debug)]
pub(crate) struct ScrubbedSessions {
    /// How many bytes were looked at.
    pub(crate) bytes: usize,
    /// Where to go on; none at the end.
    pub(crate) next: Option<u64>,
    /// Chunks of the image that are damaged.
    pub(crate) damaged: Option<Range<u64>>,
}

/// The numbers of the table that no checksum covers: kept twice by the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    ends: [u32; 4],
    counts: [usize; 2],
    digest: u128,
}

impl Sessions {
    #[inline]
    pub(crate) const fn numbers(&self) -> Numbers {
        Numbers {
            ends: [self.oldest, self.newest, self.free, self.replies.free],
            counts: [self.count, self.replies.free_count],
            digest: self.digest,
        }
    }

    /// Flips a bit of entries, links or index, as memory does.
    #[cfg(feature = "flip")]
    pub(crate) fn flip(&mut self, bit: usize) -> bool {
        let mut regions = [
            bytemuck::cast_slice_mut(&mut self.entries),
            bytemuck::cast_slice_mut(&mut self.older),
            bytemuck::cast_slice_mut(&mut self.newer),
            bytemuck::cast_slice_mut(&mut self.replies.next),
            bytemuck::cast_slice_mut(&mut self.index),
        ];
        crate::replica::flip::flip_in(&mut regions, bit)
    }

    /// Flips a bit of the cached replies' blocks.
    #[cfg(feature = "flip")]
    pub(crate) fn flip_reply(&mut self, bit: usize) -> bool {
        crate::replica::flip::flip_bit(&mut self.replies.bytes, bit)
    }

    /// The chunks of the image in which damage was met since this was last asked; none: what was read
    /// was sound. Asked after every request, before anything made from it leaves.
    #[inline]
    pub(crate) fn take_damage(&self) -> Option<Range<u64>> {
        if !self.damage.is_set() {
            return None;
        }
        self.damage.0.take().map(|(from, to)| from..to)
    }

    /// Whether damage was met since [`Self::take_damage`].
    #[inline]
    pub(crate) const fn is_damage_met(&self) -> bool {
        self.damage.is_set()
    }

    /// The entry in `slot`, or one of its links, is damaged.
    pub(super) fn note_slot(&self, slot: u32) {
        let chunk = self.changes.chunk_of_slot(slot);
        self.damage.set(chunk..chunk + 1);
    }

    /// A list or the index is damaged, and nobody can tell where: the chunk of their ends stands for
    /// it, for whatever is fetched, all lists are followed and the index is built anew.
    pub(super) fn note_lists(&self) {
        self.damage.set(0..1);
    }

    /// The reply of a session is damaged, or the links of its blocks: its checksum does not say where.
    pub(super) fn note_reply(&self, entry: &Entry) {
        let mut block = entry.reply_block;
        let (mut from, mut to) = (u64::MAX, 0);
        for _ in (0..entry.reply_size as usize).step_by(BLOCK_SIZE) {
            let link = self.replies.next.get(block as usize);
            let Some(next) = link.and_then(|link| link.open(block)) else {
                if block != NO_BLOCK && link.is_some() {
                    let chunk = self.changes.chunk_of_link(block);
                    self.damage.set(chunk..chunk + 1);
                }
                self.note_lists();
                return;
            };
            let chunk = self.changes.chunk_of_block(block);
            (from, to) = (from.min(chunk), to.max(chunk + 1));
            block = next;
        }
        self.damage.set(from.min(to)..to);
    }

    /// The neighbour of `slot` that `links` names.
    #[inline]
    pub(super) fn neighbour(&self, links: &[Link], slot: u32) -> Option<u32> {
        let Some(link) = links.get(slot as usize) else {
            self.note_lists();
            return None;
        };
        let to = link
            .open(slot)
            .filter(|&to| to == NONE || (to as usize) < links.len());
        if to.is_none() {
            self.note_slot(slot);
        }
        to
    }

    /// How many bytes one round of the scrubber looks at.
    pub(crate) fn scrub_size(&self) -> u64 {
        self.image_chunks() * super::image::CHUNK_SIZE as u64
    }

    /// Verifies about `budget` bytes from place `from` on, the first being 0: entry after entry, each with
    /// its links, its place in the index and its reply (read into `buffer`, which holds the largest),
    /// then the links of the replies' blocks, then the index. What is in no reply is nobody's.
    pub(crate) fn scrub(&self, from: u64, budget: usize, buffer: &mut [u8]) -> ScrubbedSessions {
        assert!(!self.damage.is_set(), "the caller has asked for the note");
        let (slots, blocks) = (self.entries.len(), self.replies.next.len());
        let end = slots + blocks + self.index.len();
        let mut place = from as usize;
        let mut bytes = 0;
        while place < end && bytes < budget && !self.damage.is_set() {
            match place.checked_sub(slots) {
                None => {
                    bytes += size_of::<Entry>() + 2 * size_of::<Link>();
                    bytes += self.scrub_slot(place as u32, buffer);
                }
                Some(place) if place >= blocks => {
                    bytes += size_of::<u32>();
                    let place = place - blocks;
                    let slot = self.index[place];
                    let is_sound =
                        slot == NONE || self.places.get(slot as usize) == Some(&(place as u32));
                    if !is_sound {
                        self.note_lists();
                    }
                }
                Some(block) => {
                    bytes += size_of::<Link>();
                    self.verify_link(block as u32);
                }
            }
            place += 1;
        }
        ScrubbedSessions {
            bytes,
            next: (place < end).then_some(place as u64),
            damaged: self.take_damage(),
        }
    }

    /// Notes it if the link of `block` is damaged.
    pub(super) fn verify_link(&self, block: u32) {
        if self.replies.next[block as usize].open(block).is_none() {
            let chunk = self.changes.chunk_of_link(block);
            self.damage.set(chunk..chunk + 1);
        }
    }

    /// Notes it if the session in `slot`, should there be one, or its links are damaged. Says whether
    /// there is one and it is sound.
    pub(super) fn verify_slot(&self, slot: u32) -> bool {
        let links_are_sound = self.older(slot).is_some() && self.newer(slot).is_some();
        let entry = &self.entries[slot as usize];
        if !links_are_sound || *entry == Entry::zeroed() {
            return false;
        }
        if !entry.is_sound() {
            self.note_slot(slot);
        }
        entry.is_sound()
    }

    /// Verifies the session in `slot`, if there is one; returns the size of its reply.
    fn scrub_slot(&self, slot: u32, buffer: &mut [u8]) -> usize {
        if !self.verify_slot(slot) {
            return 0;
        }
        let entry = self.entries[slot as usize];
        // The index finds it, and finds this one.
        if self.find(entry.client) != Some(slot) {
            self.note_lists();
            return 0;
        }
        let size = entry.reply_size as usize;
        let reply = &mut buffer[..size];
        let is_read = self.replies.read(entry.reply_block, reply).is_some();
        if !is_read || checksum(reply) != entry.reply_checksum {
            self.note_reply(&entry);
        }
        size
    }
}

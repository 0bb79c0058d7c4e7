//! The state as an image: chunks out, chunks in, and the proof that what came in is a state.
//!
//! The image is the arena's prefix up to `heap_end`, cut into chunks. An image from a peer is bytes
//! like any other: nothing in it is believed before [`Store::verify`] has walked all of it, and a
//! state that fails leaves an empty machine behind.

use super::arena::CHUNK_SIZE;
use super::layout::{BUCKETS_MIN, GRANULE, Globals, LINKS_AT, Links, MAGIC, Place};
use super::store::{Damage, Store};
use vsr_consensus::{ImageError, Scrub};
use vsr_types::Op;

/// What an image needs besides the arena while it is taken in.
#[derive(Debug, Default)]
pub(super) struct Installing {
    chunks: usize,
}

/// Where the scrubber is: outside the state, because replicas need not scrub in step.
#[derive(Debug, Default)]
pub(super) struct Scrubber {
    bucket: u64,
}

impl Store {
    /// The bytes of the image.
    pub(super) const fn image_size(&self) -> usize {
        self.globals.heap_end as usize * GRANULE
    }

    pub(super) const fn chunks(&self) -> usize {
        self.image_size().div_ceil(CHUNK_SIZE)
    }

    pub(super) fn read_chunk(&self, chunk: usize, into: &mut [u8]) -> usize {
        let start = chunk * CHUNK_SIZE;
        let size = CHUNK_SIZE.min(self.image_size() - start);
        into[..size].copy_from_slice(self.arena.bytes(start, size));
        size
    }

    /// What is not brought stays as it is: an image may be given as what changed since this state. The
    /// number of chunks may change while they come.
    pub(super) fn begin_image(&self, chunks: u64) -> Result<Installing, ImageError> {
        let most = self.arena.size().div_ceil(CHUNK_SIZE);
        let chunks = usize::try_from(chunks)
            .ok()
            .filter(|chunks| *chunks <= most)
            .ok_or(ImageError::TooLarge)?;
        Ok(Installing { chunks })
    }

    /// Any chunk may be short: the last of the image is, and which one that is may still change. The
    /// image says itself where it ends.
    pub(super) fn put_chunk(
        &mut self,
        installing: &Installing,
        chunk: u64,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let chunk = usize::try_from(chunk).map_err(|_| ImageError::BadChunk)?;
        let start = chunk.saturating_mul(CHUNK_SIZE);
        let fits = (1..=CHUNK_SIZE).contains(&bytes.len());
        let inside = chunk < installing.chunks && start + bytes.len() <= self.arena.size();
        if !fits || !inside {
            return Err(ImageError::BadChunk);
        }
        self.arena.bring(chunk, bytes);
        Ok(())
    }

    /// Takes the chunks as the state if they are one; otherwise the machine is empty.
    pub(super) fn finish_image(
        &mut self,
        installing: &Installing,
        at: Op,
    ) -> Result<(), ImageError> {
        let outcome = self.take_image(installing);
        match outcome {
            Ok(()) => self.arena.brought_at(at.raw()),
            Err(_) => {
                self.reset();
                self.arena.all_changed_at(at.raw());
            }
        }
        outcome
    }

    fn take_image(&mut self, installing: &Installing) -> Result<(), ImageError> {
        let globals: Globals = self.arena.read(0);
        if globals.magic != MAGIC || globals.limit as usize != self.arena.size() {
            return Err(ImageError::Invalid);
        }
        let empty = Globals::empty(self.arena.size());
        let end = usize::try_from(globals.heap_end).ok();
        let consistent = globals.capacity == empty.capacity
            && (BUCKETS_MIN..=empty.capacity).contains(&globals.buckets)
            && globals.heap_end >= empty.heap_end
            && end
                .and_then(|end| end.checked_mul(GRANULE))
                .is_some_and(|size| size.div_ceil(CHUNK_SIZE) == installing.chunks);
        if !consistent {
            return Err(ImageError::Invalid);
        }
        self.globals = globals;
        self.verify().map_err(|_| ImageError::Invalid)
    }

    /// Walks the whole state and compares all that is derived with what it is derived from.
    ///
    /// # Errors
    /// At the first disagreement.
    pub(super) fn verify(&self) -> Result<(), Damage> {
        let g = &self.globals;
        let heap = self.verify_blocks()?;
        let free = self.verify_free()?;
        let expiring = self.verify_wheel()?;
        let keys = self.verify_table()?;
        let agree = heap.sum == g.sum()
            && heap.keys == g.keys
            && keys == g.keys
            && heap.used == g.used
            && heap.free == free
            && heap.expiring == g.expiring
            && expiring == g.expiring
            && heap.last_size == g.last_size
            && heap.version <= g.version
            && g.draining <= (super::layout::WHEEL_LEVELS * super::layout::WHEEL_SLOTS) as u64;
        if agree { Ok(()) } else { Err(Damage(0)) }
    }

    /// Walks the heap block by block and verifies every entry.
    fn verify_blocks(&self) -> Result<Heap, Damage> {
        let mut heap = Heap::default();
        let mut place = self.globals.heap_start();
        let mut was_free = false;
        while place < self.globals.heap_end() {
            let block = self.try_block(place)?;
            let granules = u64::from(block.granules());
            let end = u64::from(place.raw()) + granules;
            // Neighbours know each other, and two free ones would have been merged.
            let fits = u64::from(block.previous) == heap.last_size
                && end <= self.globals.heap_end
                && !(was_free && block.is_free());
            if !fits {
                return Err(Damage(place.at()));
            }
            if block.is_free() {
                heap.free += granules;
            } else {
                let entry = self.try_entry(place)?;
                heap.used += granules;
                heap.keys += 1;
                heap.expiring += u64::from(entry.body.deadline != 0);
                heap.version = heap.version.max(entry.body.version);
                heap.sum = heap.sum.wrapping_add(entry.number());
            }
            was_free = block.is_free();
            heap.last_size = granules;
            place = Place::new(end as u32);
        }
        // The last block would have become wilderness.
        if was_free {
            Err(Damage(place.at()))
        } else {
            Ok(heap)
        }
    }

    /// Walks all buckets; returns how many entries they hold, each once.
    fn verify_table(&self) -> Result<u64, Damage> {
        let mut total = 0;
        for index in 0..self.globals.buckets {
            total += self
                .verify_bucket(index, self.globals.keys - total)?
                .entries;
        }
        Ok(total)
    }

    /// Verifies the entries of a bucket, at most `most`. An entry in its right bucket cannot be in
    /// another, and one that is there twice makes the chain endless.
    fn verify_bucket(&self, index: u64, most: u64) -> Result<BucketSize, Damage> {
        let mut size = BucketSize::default();
        let mut place = self.try_bucket(index)?;
        while !place.is_none() {
            let links = self.try_links(place)?;
            let entry = self.try_entry(place)?;
            let scheduled = (links.due_slot != 0) == (entry.body.deadline != 0);
            if size.entries == most || !self.belongs(&entry, &links, index) || !scheduled {
                return Err(Damage(place.at()));
            }
            size.entries += 1;
            size.bytes += LINKS_AT + size_of::<Links>() + entry.content.len();
            place = links.next;
        }
        Ok(size)
    }

    /// Verifies about `budget` bytes, bucket by bucket, round and round.
    pub(super) fn scrub(&self, scrubber: &mut Scrubber, budget: usize) -> Scrub {
        let mut seen = 0;
        // At most one round, however large the budget.
        for _ in 0..self.globals.buckets {
            if seen >= budget {
                break;
            }
            // The table may have been emptied since.
            scrubber.bucket %= self.globals.buckets;
            // Each round begins with the globals' two copies.
            if scrubber.bucket == 0 && !self.globals_are_sound() {
                return corrupt(Damage(0));
            }
            match self.verify_bucket(scrubber.bucket, self.globals.keys) {
                Ok(size) => seen += size.bytes + super::layout::BUCKET_SIZE,
                Err(damage) => return corrupt(damage),
            }
            scrubber.bucket = (scrubber.bucket + 1) % self.globals.buckets;
        }
        Scrub::Clean
    }
}

/// The chunk in which what is damaged begins. An entry that lies in several may be damaged in a
/// later one; repairing the first and scrubbing again then names the same, and the caller falls back
/// to R6.8.
const fn corrupt(damage: Damage) -> Scrub {
    Scrub::Corrupt((damage.0 / CHUNK_SIZE) as u64)
}

#[derive(Debug, Default)]
struct Heap {
    sum: u128,
    keys: u64,
    expiring: u64,
    used: u64,
    free: u64,
    last_size: u64,
    version: u64,
}

#[derive(Debug, Default)]
struct BucketSize {
    entries: u64,
    bytes: usize,
}

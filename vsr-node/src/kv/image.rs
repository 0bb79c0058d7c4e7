//! The state as an image: chunks out, chunks in, and the proof that what came in is a state.
//!
//! The image is the arena's prefix up to `heap_end`, cut into chunks. An image from a peer is bytes
//! like any other: nothing in it is believed before all of it has been walked over (`walk`), a bounded
//! piece at a time. Then every entry has its checksum, the digest that is compared with the donor's is
//! the sum over the entries that are really there, and everything that leads somewhere leads to what
//! belongs there. What is no state leaves a machine that answers nothing until an image is one.

use super::arena::CHUNK_SIZE;
use super::damage::Damage;
use super::layout::{BUCKETS_MIN, GRANULE, Globals, MAGIC, TABLE_AT};
use super::store::Store;
use super::walk::{Proof, Walk};
use vsr_consensus::ImageError;
use vsr_types::Op;

/// What an image needs besides the arena while it is taken in.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Installing {
    chunks: usize,
    /// How far it has been verified; none before that begins.
    proof: Option<Proof>,
}

impl Store {
    /// The bytes of the image.
    pub(super) fn image_size(&self) -> usize {
        // Counters that a flipped bit has made larger are noticed elsewhere.
        let size = (self.globals.heap_end as usize).saturating_mul(GRANULE);
        size.clamp(TABLE_AT, self.arena.size())
    }

    pub(super) fn chunks(&self) -> usize {
        self.image_size().div_ceil(CHUNK_SIZE)
    }

    pub(super) fn read_chunk(&self, chunk: usize, into: &mut [u8]) -> usize {
        let start = chunk * CHUNK_SIZE;
        assert!(start < self.image_size(), "a chunk of the image is read");
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
        Ok(Installing {
            chunks,
            proof: None,
        })
    }

    /// Any chunk may be short: the last of the image is, and which one that is may still change. The
    /// image says itself where it ends.
    pub(super) fn put_chunk(
        &mut self,
        installing: &mut Installing,
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
        installing.proof = None;
        self.arena.bring(chunk, bytes);
        Ok(())
    }

    /// Verifies about `budget` bytes of what was brought; true when all of it is verified.
    pub(super) fn verify_image(
        &mut self,
        installing: &mut Installing,
        budget: usize,
    ) -> Result<bool, ImageError> {
        let proof = match &mut installing.proof {
            Some(proof) => proof,
            none => {
                self.globals = self
                    .brought_globals(installing.chunks)
                    .ok_or(ImageError::Invalid)?;
                none.insert(Proof::default())
            }
        };
        self.prove(proof, budget).map_err(|_| ImageError::Invalid)
    }

    /// Takes the chunks as the state if they are one.
    pub(super) fn finish_image(
        &mut self,
        installing: &mut Installing,
        at: Op,
    ) -> Result<(), ImageError> {
        while !self.verify_image(installing, usize::MAX)? {}
        self.furthest = self.furthest.max(self.globals.heap_end);
        self.arena.brought_at(at.raw());
        self.scrubber = Walk::default();
        self.damage.set(None);
        Ok(())
    }

    /// What was brought, in whole or in part, is no state.
    pub(super) fn fail_image(&mut self) {
        self.globals = Globals::empty(self.arena.size());
        self.scrubber = Walk::default();
        self.damage.set(Some(Damage::UNKNOWN));
    }

    /// The globals of the image, if they can be those of a machine like this.
    fn brought_globals(&self, chunks: usize) -> Option<Globals> {
        let globals: Globals = self.arena.read(0);
        let empty = Globals::empty(self.arena.size());
        let size = usize::try_from(globals.heap_end)
            .ok()?
            .checked_mul(GRANULE)?;
        let consistent = globals.magic == MAGIC
            && globals.limit == empty.limit
            && globals.capacity == empty.capacity
            && (BUCKETS_MIN..=empty.capacity).contains(&globals.buckets)
            && globals.heap_end >= empty.heap_end
            && size <= self.arena.size()
            && size.div_ceil(CHUNK_SIZE) == chunks;
        consistent.then_some(globals)
    }
}

//! A state machine with a large state in many chunks: numbered cells, each holding a number.

extern crate std;

use std::boxed::Box;
use std::vec;

use vsr_types::{Digest, Op};

use crate::sessions::mix;
use crate::{Context, ImageError, Refusal, Scrub, StateMachine};

pub(super) const CELLS_PER_CHUNK: usize = 64;
const CHUNK_SIZE: usize = CELLS_PER_CHUNK * 8;

/// An operation is an index and a value; the reply is what was there before. Cell 0 says how many are
/// in use: the image ends with the last of them.
#[derive(Debug)]
pub(super) struct Cells {
    cells: Box<[u64]>,
    changed: Box<[Op]>,
    sum: u128,
    installing: Option<u64>,
    /// How often it was asked to verify some of an image since the last chunk.
    verified: u32,
}

/// In so many steps an image is verified.
pub(super) const STEPS: u32 = 5;

fn number(index: usize, value: u64) -> u128 {
    let seed = mix(index as u64 ^ mix(value));
    (u128::from(mix(seed)) << 64) | u128::from(seed)
}

impl Cells {
    pub(super) fn new(cells: usize) -> Self {
        let mut cells = vec![0; cells].into_boxed_slice();
        cells[0] = 1;
        let mut made = Self {
            changed: vec![Op::ZERO; cells.len().div_ceil(CELLS_PER_CHUNK)].into_boxed_slice(),
            cells,
            sum: 0,
            installing: None,
            verified: 0,
        };
        made.sum = made.recomputed();
        made
    }

    /// Flips a bit and tells nobody; returns the chunk that is bad now.
    pub(super) fn flip(&mut self, index: u64) -> u64 {
        self.cells[index as usize] ^= 1 << 17;
        index / CELLS_PER_CHUNK as u64
    }

    /// Whether the digest is that of the cells.
    pub(super) fn is_sound(&self) -> bool {
        self.sum == self.recomputed()
    }

    fn recomputed(&self) -> u128 {
        let used = self.cells[0] as usize;
        let cells = self.cells[..used].iter().enumerate();
        cells.fold(0, |sum, (index, &value)| {
            sum.wrapping_add(number(index, value))
        })
    }

    fn set(&mut self, index: usize, value: u64, op: Op) {
        self.sum = self
            .sum
            .wrapping_sub(number(index, self.cells[index]))
            .wrapping_add(number(index, value));
        self.cells[index] = value;
        self.changed[index / CELLS_PER_CHUNK] = op;
    }
}

fn words(bytes: &[u8]) -> Option<(u64, u64)> {
    let index = bytes.get(..8)?.try_into().ok()?;
    let value = bytes.get(8..16)?.try_into().ok()?;
    Some((u64::from_le_bytes(index), u64::from_le_bytes(value)))
}

impl StateMachine for Cells {
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        words(operation).map(|_| ()).ok_or(Refusal { code: 1 })
    }

    fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        assert!(
            self.installing.is_none(),
            "nothing is executed on half a state"
        );
        let (index, value) = words(operation).expect("validated");
        let (index, op) = (index as usize % (self.cells.len() - 1) + 1, at.stamp.op);
        let used = self.cells[0] as usize;
        for fresh in used..=index {
            self.cells[fresh] = 0;
            self.sum = self.sum.wrapping_add(number(fresh, 0));
            self.changed[fresh / CELLS_PER_CHUNK] = op;
        }
        if index >= used {
            self.set(0, index as u64 + 1, op);
        }
        let before = self.cells[index];
        self.set(index, value, op);
        reply[..8].copy_from_slice(&before.to_le_bytes());
        8
    }

    fn query(&self, _: &Context, _: &[u8], _: &mut [u8]) -> usize {
        0
    }

    fn digest(&self) -> Digest {
        Digest::new(self.sum)
    }

    fn image_chunks(&self) -> u64 {
        self.cells[0].div_ceil(CELLS_PER_CHUNK as u64)
    }

    fn image_chunk_size(&self) -> usize {
        CHUNK_SIZE
    }

    fn image_changed_at(&self, chunk: u64) -> Op {
        self.changed[chunk as usize]
    }

    fn image_read(&self, chunk: u64, into: &mut [u8]) -> usize {
        let start = chunk as usize * CELLS_PER_CHUNK;
        let end = (start + CELLS_PER_CHUNK).min(self.cells[0] as usize);
        let bytes = bytemuck::cast_slice(&self.cells[start..end]);
        into[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    }

    fn image_begin(&mut self, chunks: u64) -> Result<(), ImageError> {
        if chunks > self.changed.len() as u64 {
            return Err(ImageError::TooLarge);
        }
        self.installing = Some(chunks);
        Ok(())
    }

    fn image_put(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let start = chunk as usize * CELLS_PER_CHUNK;
        let count = bytes.len() / 8;
        let fits = self.installing.is_some_and(|chunks| chunk < chunks)
            && bytes.len().is_multiple_of(8)
            && count <= CELLS_PER_CHUNK
            && start + count <= self.cells.len();
        if !fits {
            return Err(ImageError::BadChunk);
        }
        let cells = &mut self.cells[start..start + count];
        bytemuck::cast_slice_mut(cells).copy_from_slice(bytes);
        self.changed[chunk as usize] = Op::new(u64::MAX);
        self.verified = 0;
        Ok(())
    }

    fn image_verify(&mut self, _: usize) -> Result<bool, ImageError> {
        self.verified += 1;
        Ok(self.verified >= STEPS)
    }

    fn image_finish(&mut self, at: Op) -> Result<(), ImageError> {
        let chunks = self.installing.take().ok_or(ImageError::Invalid)?;
        assert!(self.verified >= STEPS, "verified first, step by step");
        for changed in &mut self.changed {
            if changed.raw() == u64::MAX {
                *changed = at;
            }
        }
        let used = self.cells[0];
        if used == 0 || used > self.cells.len() as u64 || self.image_chunks() != chunks {
            self.cells[0] = 1;
            return Err(ImageError::Invalid);
        }
        self.sum = self.recomputed();
        Ok(())
    }

    fn scrub(&mut self, _: usize) -> Scrub {
        Scrub::Clean
    }
}

//! The state machine of the simulator's own swarm: registers in a table that grows.
//!
//! A register is one word. A swap returns what it held before, so every answer names the operation
//! before it on the same register: a history of swaps with distinct values has at most one order, which
//! makes the search for it short and every lost, doubled or reordered operation visible. The image has
//! one chunk of table of contents and then the registers, sixteen to a chunk, so that a state of some
//! hundred registers takes dozens of chunks to transfer.

use std::vec;
use std::vec::Vec;

use bytemuck::{Pod, Zeroable};
use vsr_types::{Digest, Op};

use super::machine::{Observation, Simulated};
use super::random::Random;
use crate::sessions::mix;
use crate::{Context, ImageError, Refusal, Scrub, StateMachine};

/// A register and what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Register {
    value: u64,
    /// How often it was written.
    count: u64,
    /// The op that wrote it last.
    changed_at: Op,
    /// What the replicated clock showed then.
    written_at: u64,
}

/// Registers in one chunk of the image.
const PER_CHUNK: usize = 16;
const CHUNK_SIZE: usize = PER_CHUNK * size_of::<Register>();
/// The most registers.
const REGISTERS_MAX: u64 = 4096;

/// How an operation begins: what it does, to which register, with which value, and what it expects
/// to find. Whatever follows is ballast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Order {
    kind: u64,
    key: u64,
    value: u64,
    expected: u64,
}

const SWAP: u64 = 1;
/// Writes only if the register holds what is expected.
const COMPARE: u64 = 2;
/// As a swap, with a reply as long as the value says.
const LONG: u64 = 3;
/// What no replica orders.
const REFUSED: u64 = 4;
/// The reply of a [`LONG`] at most.
const LONG_MAX: u64 = 3_000;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Store {
    registers: Vec<Register>,
    /// The op that made the table longer last.
    grown_at: Op,
    sum: u128,
    incoming: Option<u64>,
}

impl Store {
    fn digest_of(place: usize, register: &Register) -> u128 {
        let mut hash = mix(place as u64 + 1);
        let words = [
            register.value,
            register.count,
            register.changed_at.raw(),
            register.written_at,
        ];
        let mut low = 0_u64;
        for word in words {
            hash = mix(hash ^ word);
            low = mix(low.wrapping_add(hash));
        }
        (u128::from(hash) << 64) | u128::from(low)
    }

    /// Gives the table a register `key`.
    fn reach(&mut self, key: usize, op: Op) {
        while self.registers.len() <= key {
            let register = Register::default();
            self.sum = self
                .sum
                .wrapping_add(Self::digest_of(self.registers.len(), &register));
            self.registers.push(register);
            self.grown_at = op;
        }
    }

    fn write(&mut self, at: &Context, key: usize, value: u64) {
        let place = &mut self.registers[key];
        self.sum = self.sum.wrapping_sub(Self::digest_of(key, place));
        place.value = value;
        place.count += 1;
        place.changed_at = at.stamp.op;
        place.written_at = at.timestamp.as_nanos();
        self.sum = self.sum.wrapping_add(Self::digest_of(key, place));
    }
}

fn order_of(operation: &[u8]) -> Option<Order> {
    let order: Order = operation
        .get(..size_of::<Order>())
        .map(bytemuck::pod_read_unaligned)?;
    (order.key < REGISTERS_MAX).then_some(order)
}

impl StateMachine for Store {
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        match order_of(operation).map(|order| order.kind) {
            Some(SWAP | COMPARE | LONG) => Ok(()),
            _ => Err(Refusal { code: 7 }),
        }
    }

    fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        let Some(order) = order_of(operation) else {
            return 0;
        };
        let key = order.key as usize;
        self.reach(key, at.stamp.op);
        let before = self.registers[key].value;
        if order.kind != COMPARE || order.expected == before {
            self.write(at, key, order.value);
        }
        reply[..8].copy_from_slice(&before.to_le_bytes());
        if order.kind == LONG {
            let size = (8 + order.expected % LONG_MAX) as usize;
            reply[8..size].fill(order.value as u8);
            return size;
        }
        8
    }

    fn query(&self, _at: &Context, query: &[u8], reply: &mut [u8]) -> usize {
        let key = order_of(query).map_or(usize::MAX, |order| order.key as usize);
        let value = self.registers.get(key).map_or(0, |register| register.value);
        reply[..8].copy_from_slice(&value.to_le_bytes());
        8
    }

    fn digest(&self) -> Digest {
        let header = mix(self.grown_at.raw() ^ mix(self.registers.len() as u64));
        Digest::new(self.sum ^ u128::from(header))
    }

    fn image_chunks(&self) -> u64 {
        1 + self.registers.len().div_ceil(PER_CHUNK) as u64
    }

    fn image_chunk_size(&self) -> usize {
        CHUNK_SIZE
    }

    fn image_changed_at(&self, chunk: u64) -> Op {
        let Some(first) = (chunk as usize).checked_sub(1) else {
            return self.grown_at;
        };
        let rest = &self.registers[first * PER_CHUNK..];
        let last_change = rest.iter().take(PER_CHUNK).map(|r| r.changed_at).max();
        // The chunk at the end also changes when the table grows.
        let is_last = chunk + 1 == self.image_chunks();
        let grown = if is_last { self.grown_at } else { Op::ZERO };
        last_change.unwrap_or_default().max(grown)
    }

    fn image_read(&self, chunk: u64, into: &mut [u8]) -> usize {
        let Some(first) = (chunk as usize).checked_sub(1) else {
            into[..8].copy_from_slice(&(self.registers.len() as u64).to_le_bytes());
            into[8..16].copy_from_slice(&self.grown_at.raw().to_le_bytes());
            into[16..CHUNK_SIZE].fill(0);
            return CHUNK_SIZE;
        };
        let from = first * PER_CHUNK;
        let to = (from + PER_CHUNK).min(self.registers.len());
        let bytes: &[u8] = bytemuck::cast_slice(&self.registers[from..to]);
        into[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    }

    fn image_begin(&mut self, chunks: u64) -> Result<(), ImageError> {
        let registers = chunks.saturating_sub(1) * PER_CHUNK as u64;
        if registers > REGISTERS_MAX + PER_CHUNK as u64 {
            return Err(ImageError::TooLarge);
        }
        self.incoming = Some(chunks);
        // Chunks that are as they were are not put again: what is here stays.
        Ok(())
    }

    fn image_put(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let chunks = self.incoming.ok_or(ImageError::BadChunk)?;
        if chunk >= chunks || bytes.len() > CHUNK_SIZE {
            return Err(ImageError::BadChunk);
        }
        let Some(first) = (chunk as usize).checked_sub(1) else {
            let word = |i: usize| bytes.get(i..i + 8)?.try_into().ok().map(u64::from_le_bytes);
            let count = word(0).ok_or(ImageError::BadChunk)?;
            let grown_at = word(8).ok_or(ImageError::BadChunk)?;
            if count.div_ceil(PER_CHUNK as u64) + 1 != chunks {
                return Err(ImageError::BadChunk);
            }
            self.registers.truncate(count as usize);
            self.registers.resize(count as usize, Register::default());
            self.grown_at = Op::new(grown_at);
            return Ok(());
        };
        if !bytes.len().is_multiple_of(size_of::<Register>()) {
            return Err(ImageError::BadChunk);
        }
        let from = first * PER_CHUNK;
        for (place, bytes) in bytes.chunks_exact(size_of::<Register>()).enumerate() {
            let register = bytemuck::pod_read_unaligned(bytes);
            if from + place >= self.registers.len() {
                self.registers.resize(from + place + 1, Register::default());
            }
            self.registers[from + place] = register;
        }
        Ok(())
    }

    fn image_finish(&mut self, at: Op) -> Result<(), ImageError> {
        self.incoming.take().ok_or(ImageError::Invalid)?;
        self.sum = 0;
        for (place, register) in self.registers.iter().enumerate() {
            self.sum = self.sum.wrapping_add(Self::digest_of(place, register));
        }
        let newest = self.registers.iter().map(|r| r.changed_at).max();
        if newest.unwrap_or_default() > at || self.grown_at > at {
            return Err(ImageError::Invalid);
        }
        Ok(())
    }

    fn scrub(&mut self, _budget: usize) -> Scrub {
        Scrub::Clean
    }
}

impl Simulated for Store {
    fn new() -> Self {
        Self::default()
    }

    fn operation(random: &mut Random) -> Vec<u8> {
        let kind = match random.below(100) {
            0..80 => SWAP,
            80..90 => COMPARE,
            90..98 => LONG,
            _ => REFUSED,
        };
        let order = Order {
            kind,
            key: key(random),
            value: random.next() | 1,
            expected: if kind == LONG { random.next() } else { 0 },
        };
        let ballast = match random.below(20) {
            0 => random.below(3_000) as usize,
            1 => 1,
            _ => 0,
        };
        let mut operation = vec![0xBA; size_of::<Order>() + ballast];
        operation[..size_of::<Order>()].copy_from_slice(bytemuck::bytes_of(&order));
        operation
    }

    fn question(random: &mut Random) -> Option<Vec<u8>> {
        let order = Order {
            kind: 0,
            key: key(random),
            value: 0,
            expected: 0,
        };
        Some(bytemuck::bytes_of(&order).to_vec())
    }

    fn observe(request: &[u8], reply: &[u8]) -> Option<Observation> {
        let order = order_of(request)?;
        let before = reply.get(..8).and_then(|bytes| bytes.try_into().ok());
        let before = before.map(u64::from_le_bytes);
        let after = match order.kind {
            0 => None,
            COMPARE if before.is_some_and(|value| value != order.expected) => None,
            _ => Some(order.value),
        };
        Some(Observation {
            key: order.key,
            before,
            after,
        })
    }
}

/// A few hot registers, some warm ones, and a long tail that makes the state grow.
fn key(random: &mut Random) -> u64 {
    match random.below(100) {
        0..30 => random.below(4),
        30..80 => random.below(64),
        _ => random.below(800),
    }
}

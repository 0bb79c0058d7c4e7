//! What a state machine must offer to be simulated, and the wrapper that watches it.
//!
//! [`Watched`] stands between the replica and the machine and notes everything the replica does to it:
//! what was executed where in the order, what the answer was, what the state's digest was afterwards.
//! The checkers compare these notes between replicas and with a machine of their own.

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use vsr_types::{ClientId, Digest, Op, Timestamp, checksum};

use super::options::Plant;
use super::random::Random;
use crate::{Context, ImageError, Refusal, Scrub, StateMachine};

/// A state machine that can be put under simulated crashes, partitions and flipped bits.
///
/// ```
/// # use vsr_consensus::{Context, ImageError, Refusal, Scrub, StateMachine};
/// use vsr_consensus::sim::{Faults, Random, Seeds, Simulated, check};
/// # struct Counter(u64, vsr_types::Op);
/// # impl StateMachine for Counter {
/// #     fn validate(&self, _: &[u8]) -> Result<(), Refusal> { Ok(()) }
/// #     fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
/// #         self.0 += u64::from(operation[0]);
/// #         self.1 = at.stamp.op;
/// #         reply[..8].copy_from_slice(&self.0.to_le_bytes());
/// #         8
/// #     }
/// #     fn query(&self, _: &Context, _: &[u8], _: &mut [u8]) -> usize { 0 }
/// #     fn digest(&self) -> vsr_types::Digest { vsr_types::Digest::new(u128::from(self.0)) }
/// #     fn image_chunks(&self) -> u64 { 1 }
/// #     fn image_chunk_size(&self) -> usize { 16 }
/// #     fn image_changed_at(&self, _: u64) -> vsr_types::Op { self.1 }
/// #     fn image_read(&self, _: u64, into: &mut [u8]) -> usize {
/// #         into[..8].copy_from_slice(&self.0.to_le_bytes());
/// #         into[8..16].copy_from_slice(&self.1.raw().to_le_bytes());
/// #         16
/// #     }
/// #     fn image_begin(&mut self, _: u64) -> Result<(), ImageError> { Ok(()) }
/// #     fn image_put(&mut self, _: u64, bytes: &[u8]) -> Result<(), ImageError> {
/// #         let word = |i: usize| bytes.get(i..i + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
/// #         let (Some(count), Some(op)) = (word(0), word(8)) else { return Err(ImageError::BadChunk) };
/// #         (self.0, self.1) = (count, vsr_types::Op::new(op));
/// #         Ok(())
/// #     }
/// #     fn image_finish(&mut self, _: vsr_types::Op) -> Result<(), ImageError> { Ok(()) }
/// #     fn scrub(&mut self, _: usize) -> Scrub { Scrub::Clean }
/// # }
/// impl Simulated for Counter {
///     fn new() -> Self {
///         Self(0, vsr_types::Op::ZERO)
///     }
///     fn operation(random: &mut Random) -> Vec<u8> {
///         vec![random.below(10) as u8]
///     }
/// }
/// let options = vsr_consensus::sim::Options { ops: 200, ..Default::default() };
/// let summary = vsr_consensus::sim::check_with::<Counter>(Seeds::range(0..2), &options).unwrap();
/// assert_eq!(summary.seeds, 2);
/// ```
pub trait Simulated: StateMachine + Sized {
    /// An empty machine, as a process that has just started has it.
    fn new() -> Self;

    /// An operation that a client might ask for.
    fn operation(random: &mut Random) -> Vec<u8>;

    /// A query that a client might ask, if the machine has any.
    fn question(_random: &mut Random) -> Option<Vec<u8>> {
        None
    }

    /// What an operation or query and its answer say about a register, if they say anything: lets
    /// the simulator search the histories of single registers for an order that explains them. Before
    /// there is an answer, `reply` is empty and only the key is asked for.
    fn observe(_request: &[u8], _reply: &[u8]) -> Option<Observation> {
        None
    }
}

/// What a client saw of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Which register.
    pub key: u64,
    /// What it held: the answer to a read or a swap. None where no answer came.
    pub before: Option<u64>,
    /// What it holds afterwards; none: as before.
    pub after: Option<u64>,
}

/// One thing that a replica did to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Executed an operation.
    Applied {
        op: Op,
        index: u32,
        client: ClientId,
        timestamp: Timestamp,
        operation: u32,
        reply: u32,
        size: u32,
        digest: Digest,
    },
    /// Replaced its state by another's.
    Installed { op: Op, digest: Digest },
}

/// A machine and the notes about it.
#[derive(Debug)]
pub(crate) struct Watched<M> {
    machine: M,
    notes: RefCell<Vec<Note>>,
    plant: Option<Plant>,
    applied: u64,
    answers: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// How often an operation is executed again when it goes its own way; zero: it never does.
    twists: u32,
    has_diverged: bool,
}

/// After how many operations a planted mistake happens.
const PLANTED_AT: u64 = 150;

impl<M: Simulated> Watched<M> {
    pub(crate) fn new(plant: Option<Plant>) -> Self {
        Self {
            machine: M::new(),
            notes: RefCell::new(Vec::with_capacity(64)),
            plant,
            applied: 0,
            answers: RefCell::default(),
            twists: 0,
            has_diverged: false,
        }
    }

    /// A machine that goes its own way once, and so far: no two that go differently far are equal.
    pub(crate) fn diverging(mut self, twists: u32) -> Self {
        self.twists = twists;
        self
    }

    /// Whether it has gone its own way.
    pub(crate) const fn has_diverged(&self) -> bool {
        self.has_diverged
    }

    /// Takes the notes since the last time.
    pub(crate) fn drain(&self, into: &mut Vec<Note>) {
        into.clear();
        into.append(&mut self.notes.borrow_mut());
    }
}

impl<M: StateMachine> StateMachine for Watched<M> {
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        self.machine.validate(operation)
    }

    fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        self.applied += 1;
        let plant = self.plant.filter(|_| self.applied == PLANTED_AT);
        let mut size = 0;
        if plant != Some(Plant::LeavesOut) {
            size = self.machine.apply(at, operation, reply);
        }
        match plant {
            Some(Plant::ExecutesTwice) => size = self.machine.apply(at, operation, reply),
            Some(Plant::WrongReply) if size > 0 => reply[0] ^= 1,
            _ => {}
        }
        if self.twists > 0 && self.applied >= PLANTED_AT && !self.has_diverged {
            let before = self.machine.digest();
            for _ in 0..self.twists {
                size = self.machine.apply(at, operation, reply);
            }
            self.has_diverged = self.machine.digest() != before;
        }
        self.notes.borrow_mut().push(Note::Applied {
            op: at.stamp.op,
            index: at.index,
            client: at.client,
            timestamp: at.timestamp,
            operation: checksum(operation).raw(),
            reply: checksum(&reply[..size]).raw(),
            size: size as u32,
            digest: self.machine.digest(),
        });
        size
    }

    fn query(&self, at: &Context, query: &[u8], reply: &mut [u8]) -> usize {
        let size = self.machine.query(at, query, reply);
        if self.plant != Some(Plant::StaleRead) {
            return size;
        }
        let mut answers = self.answers.borrow_mut();
        let first = answers
            .entry(query.to_vec())
            .or_insert_with(|| reply[..size].to_vec());
        reply[..first.len()].copy_from_slice(first);
        first.len()
    }

    fn digest(&self) -> Digest {
        self.machine.digest()
    }

    fn image_chunks(&self) -> u64 {
        self.machine.image_chunks()
    }

    fn image_chunk_size(&self) -> usize {
        self.machine.image_chunk_size()
    }

    fn image_changed_at(&self, chunk: u64) -> Op {
        self.machine.image_changed_at(chunk)
    }

    fn image_read(&self, chunk: u64, into: &mut [u8]) -> usize {
        self.machine.image_read(chunk, into)
    }

    fn image_begin(&mut self, chunks: u64) -> Result<(), ImageError> {
        self.machine.image_begin(chunks)
    }

    fn image_put(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), ImageError> {
        self.machine.image_put(chunk, bytes)
    }

    fn image_finish(&mut self, at: Op) -> Result<(), ImageError> {
        self.machine.image_finish(at)?;
        let digest = self.machine.digest();
        self.notes
            .borrow_mut()
            .push(Note::Installed { op: at, digest });
        Ok(())
    }

    fn image_verify(&mut self, budget: usize) -> Result<bool, ImageError> {
        self.machine.image_verify(budget)
    }

    fn scrub(&mut self, budget: usize) -> Scrub {
        self.machine.scrub(budget)
    }

    fn scrub_size(&self) -> u64 {
        self.machine.scrub_size()
    }

    fn damaged(&self) -> Option<u64> {
        self.machine.damaged()
    }

    fn damaged_span(&self) -> u64 {
        self.machine.damaged_span()
    }
}

/// A machine of the checkers' own, which executes what the first replica executed.
#[derive(Debug)]
pub(crate) struct Model<M> {
    machine: M,
    reply: Vec<u8>,
}

impl<M: Simulated> Model<M> {
    pub(crate) fn new() -> Self {
        Self {
            machine: M::new(),
            reply: vec![0; vsr_types::limits::REPLY_SIZE_MAX],
        }
    }

    /// Executes one operation; returns the checksum of the reply, and the digest afterwards.
    pub(crate) fn apply(&mut self, at: &Context, operation: &[u8]) -> (u32, Digest) {
        let size = self.machine.apply(at, operation, &mut self.reply);
        (checksum(&self.reply[..size]).raw(), self.machine.digest())
    }
}

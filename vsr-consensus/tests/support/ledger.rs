//! A state machine that remembers what was done to it, so that tests can count.
//!
//! Operations are text: `add 5` adds to a total and replies with it, `big 900` replies with that many
//! bytes, anything else is echoed. An operation that begins with `!` is refused before it is ordered.
//! The digest covers the order of everything executed, so two ledgers with equal digests have executed
//! the same operations in the same order. The state is kept twice: a ledger in which a bit flips says so
//! when it is asked for anything.

use std::cell::Cell;
use std::io::Write as _;
use std::rc::Rc;

use vsr_consensus::{Context, ImageError, Refusal, Scrub, StateMachine};
use vsr_types::{ClientId, Digest, Op, Timestamp};

/// One operation that was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    pub op: Op,
    pub index: u32,
    pub client: ClientId,
    pub timestamp: Timestamp,
    pub operation: Vec<u8>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Ledger {
    total: u64,
    count: u64,
    hash: u64,
    changed_at: Op,
    /// The state as it was written, and whether it was found to be another.
    written: [u8; STATE_SIZE],
    is_damaged: Cell<bool>,
    /// Everything executed, when it is to be remembered.
    pub history: Option<Vec<Executed>>,
    /// Makes every operation allocate: what the allocation test must notice.
    pub allocates: bool,
    /// The same for every chunk of state that is read or put, and for every look of a scrubber.
    pub allocates_for_images: bool,
    /// Set from outside: the next operation goes wrong here, as after a flipped bit.
    pub flip: Rc<Cell<bool>>,
    /// Set from outside: what goes into the total with the next operation, by nobody's order.
    pub twist: Rc<Cell<u64>>,
}

const STATE_SIZE: usize = 32;

impl Ledger {
    /// A ledger that remembers everything.
    pub fn remembering() -> Self {
        Self {
            history: Some(Vec::new()),
            ..Self::default()
        }
    }

    pub const fn total(&self) -> u64 {
        self.total
    }

    pub const fn count(&self) -> u64 {
        self.count
    }

    pub fn history(&self) -> &[Executed] {
        self.history.as_deref().expect("a remembering ledger")
    }

    /// Flips a bit of the state, as memory does.
    pub const fn damage(&mut self, bit: usize) {
        let word = match bit / 64 {
            0 => &mut self.total,
            1 => &mut self.count,
            _ => &mut self.hash,
        };
        *word ^= 1 << (bit % 64);
    }

    /// Whether the state is what was written; if not, that is noted.
    fn is_sound(&self) -> bool {
        let is_sound = self.state() == self.written;
        self.is_damaged.set(self.is_damaged.get() || !is_sound);
        is_sound
    }

    fn mix(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.hash ^= self.hash >> 29;
        }
    }

    fn state(&self) -> [u8; STATE_SIZE] {
        let words = [self.total, self.count, self.hash, self.changed_at.raw()];
        let mut bytes = [0; STATE_SIZE];
        for (into, word) in bytes.chunks_mut(8).zip(words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

fn number_after(operation: &[u8], word: &str) -> Option<u64> {
    let rest = operation.strip_prefix(word.as_bytes())?;
    core::str::from_utf8(rest).ok()?.trim().parse().ok()
}

fn write_number(mut into: &mut [u8], number: u64) -> usize {
    let before = into.len();
    write!(into, "{number}").expect("a reply buffer holds a number");
    before - into.len()
}

fn allocate(does: bool) {
    if does {
        drop(std::hint::black_box(vec![7_u8; 100]));
    }
}

impl StateMachine for Ledger {
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        match operation.first() {
            Some(b'!') => Err(Refusal { code: 7 }),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        if !self.is_sound() {
            return 0;
        }
        self.mix(&at.stamp.op.raw().to_le_bytes());
        self.mix(&u64::from(at.index).to_le_bytes());
        self.mix(&at.client.raw().to_le_bytes());
        self.mix(&at.timestamp.as_nanos().to_le_bytes());
        self.mix(operation);
        self.count += 1;
        self.changed_at = at.stamp.op;
        if self.flip.take() {
            self.total ^= 1 << 20;
        }
        self.total ^= self.twist.take();
        self.written = self.state();
        if self.allocates {
            drop(std::hint::black_box(operation.to_vec()));
        }
        if let Some(history) = &mut self.history {
            history.push(Executed {
                op: at.stamp.op,
                index: at.index,
                client: at.client,
                timestamp: at.timestamp,
                operation: operation.to_vec(),
            });
        }
        if let Some(amount) = number_after(operation, "add ") {
            self.total = self.total.wrapping_add(amount);
            self.written = self.state();
            write_number(reply, self.total)
        } else if let Some(size) = number_after(operation, "big ") {
            let size = (size as usize).min(reply.len());
            reply[..size].fill(b'b');
            size
        } else {
            reply[..operation.len()].copy_from_slice(operation);
            operation.len()
        }
    }

    fn query(&self, _at: &Context, _query: &[u8], reply: &mut [u8]) -> usize {
        if !self.is_sound() {
            return 0;
        }
        write_number(reply, self.total)
    }

    fn digest(&self) -> Digest {
        Digest::new(
            (u128::from(self.hash) << 64) | u128::from(self.total ^ self.count.rotate_left(32)),
        )
    }

    fn is_digest_sound(&self) -> bool {
        self.state() == self.written
    }

    fn image_chunks(&self) -> u64 {
        1
    }

    fn image_chunk_size(&self) -> usize {
        STATE_SIZE
    }

    fn image_changed_at(&self, _chunk: u64) -> Op {
        self.changed_at
    }

    fn image_read(&self, _chunk: u64, into: &mut [u8]) -> usize {
        allocate(self.allocates_for_images);
        let _: bool = self.is_sound();
        into[..STATE_SIZE].copy_from_slice(&self.state());
        STATE_SIZE
    }

    fn image_begin(&mut self, chunks: u64) -> Result<(), ImageError> {
        if chunks == 1 {
            Ok(())
        } else {
            Err(ImageError::TooLarge)
        }
    }

    fn image_put(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), ImageError> {
        allocate(self.allocates_for_images);
        let bytes: &[u8; STATE_SIZE] = bytes.try_into().map_err(|_| ImageError::BadChunk)?;
        if chunk != 0 {
            return Err(ImageError::BadChunk);
        }
        let word = |i: usize| {
            let word = bytes[i * 8..][..8].try_into().expect("eight bytes");
            u64::from_le_bytes(word)
        };
        (self.total, self.count, self.hash) = (word(0), word(1), word(2));
        self.changed_at = Op::new(word(3));
        Ok(())
    }

    fn image_finish(&mut self, at: Op) -> Result<(), ImageError> {
        if self.changed_at <= at {
            self.written = self.state();
            self.is_damaged.set(false);
            Ok(())
        } else {
            Err(ImageError::Invalid)
        }
    }

    fn scrub(&mut self, _budget: usize) -> Scrub {
        allocate(self.allocates_for_images);
        if self.state() == self.written {
            Scrub::Clean
        } else {
            Scrub::Corrupt(0)
        }
    }

    fn damaged(&self) -> Option<u64> {
        self.is_damaged.get().then_some(0)
    }
}

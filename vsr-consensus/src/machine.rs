//! The data plane's side of the door: what a replicated state machine must offer.
//!
//! The control plane orders bytes it does not understand; an implementation of [`StateMachine`]
//! executes them. Everything the machine may depend on comes in as an argument: a machine that reads
//! a clock, a random source or the order of a hash table diverges, and the digests will say so.

use vsr_types::message::ImageLayout;
use vsr_types::{ClientId, Digest, Timestamp, ViewStamp};

/// Where in the order of all things an operation is executed. There is no other source of time or
/// randomness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The place of the batch in the log. Its view is the one in which the batch was first prepared.
    pub stamp: ViewStamp,
    /// The place of the operation in its batch.
    pub index: u32,
    /// The replicated time: strictly increasing from batch to batch, equal everywhere.
    pub timestamp: Timestamp,
    /// Who asked for it.
    pub client: ClientId,
}

/// Why an operation is refused before it is ordered. The code is the machine's own and reaches the
/// client as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Chosen by the machine.
    pub code: u64,
}

/// What [`StateMachine::scrub`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrub {
    /// Everything looked at was as it was written.
    Clean,
    /// This chunk of the image is damaged.
    Corrupt(u64),
}

/// In place of a chunk's number: there is damage, but no chunk of the image explains it. Everything is
/// fetched anew.
pub const CHUNK_UNKNOWN: u64 = u64::MAX;

/// Why an image could not be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The machine's memory is smaller than the image.
    TooLarge,
    /// A chunk has the wrong number or size.
    BadChunk,
    /// What was put together is no valid state.
    Invalid,
}

/// A deterministic state machine: same state and same arguments, same state and same reply.
///
/// The image methods present the state as chunks of a fixed size. Chunk i's bytes are a function of
/// the state alone, equal on every replica at the same op, so that chunks can be compared, repaired
/// and transferred one by one.
pub trait StateMachine {
    /// Before ordering, at the primary: malformed operations never enter the log. The answer
    /// must depend on the bytes alone, not on the state: a copy of the request may come later.
    ///
    /// # Errors
    /// A [`Refusal`] when the operation can never be executed.
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal>;

    /// Executes one operation and returns the size of the reply written into `reply`.
    fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize;

    /// Answers a query without changing anything and returns the size of the reply. `at` is the
    /// place and time of the last operation executed.
    fn query(&self, at: &Context, query: &[u8], reply: &mut [u8]) -> usize;

    /// The digest of the whole state, kept up to date incrementally: O(bytes changed).
    fn digest(&self) -> Digest;

    /// Whether [`Self::digest`] is that of what was written, whatever else is damaged: what puts a state
    /// together is believed by it. A machine that keeps it beside its state says no when that is damaged; one
    /// that computes it from the state must say no whenever that is.
    fn is_digest_sound(&self) -> bool {
        true
    }

    /// How many chunks the image has now.
    fn image_chunks(&self) -> u64;

    /// The size of every chunk but the last, in bytes: at most a frame's body, and better 64 KiB, from where
    /// on checksums run at full speed.
    fn image_chunk_size(&self) -> usize;

    /// What an image of this machine fits: machines with the same layout take each other's images. An
    /// import compares it before anything is written.
    fn image_layout(&self) -> ImageLayout {
        ImageLayout::default()
    }

    /// The op that last changed chunk `chunk`, or a later one; op 0 if none did. The state before op 1 is
    /// the same on every replica.
    fn image_changed_at(&self, chunk: u64) -> vsr_types::Op;

    /// Copies chunk `chunk` into `into` and returns its size.
    fn image_read(&self, chunk: u64, into: &mut [u8]) -> usize;

    /// Begins to replace the state by an image of `chunks` chunks. What is not put stays what it is: an
    /// image may come as what changed since this very state. Called again before
    /// [`Self::image_finish`], it only changes the number of chunks: they are read while their state
    /// goes on changing. From here to [`Self::image_finish`] the machine is not asked to execute or
    /// answer anything.
    ///
    /// # Errors
    /// [`ImageError::TooLarge`] when the image is larger than the machine's memory.
    fn image_begin(&mut self, chunks: u64) -> Result<(), ImageError>;

    /// Takes one chunk, in any order, possibly again: the last one counts. Any chunk may be short,
    /// since it may have been the last one when it was read.
    ///
    /// # Errors
    /// When the chunk does not belong to the image.
    fn image_put(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), ImageError>;

    /// Ends the replacement; the state is now that of the image, verified, taken at `at`.
    ///
    /// # Errors
    /// When the chunks do not form a valid state. The machine may then hold any state: an image is
    /// fetched anew, every chunk of it.
    fn image_finish(&mut self, at: vsr_types::Op) -> Result<(), ImageError>;

    /// After the last chunk was put and before [`Self::image_finish`]: verifies about `budget` bytes of
    /// the image; true when all of it is verified. Called again and again, with other work in between,
    /// so that no step takes long. A put after it starts it over. [`Self::image_finish`] verifies the
    /// rest, all at once, if it is called earlier.
    ///
    /// # Errors
    /// As [`Self::image_finish`].
    fn image_verify(&mut self, _budget: usize) -> Result<bool, ImageError> {
        Ok(true)
    }

    /// Verifies some memory, about `budget` bytes of it, going round and round, past what is damaged
    /// too. What it finds it says and does not note for [`Self::damaged`].
    fn scrub(&mut self, budget: usize) -> Scrub;

    /// How many bytes one round of [`Self::scrub`] looks at: what its pace follows from.
    fn scrub_size(&self) -> u64 {
        self.image_chunks() * self.image_chunk_size() as u64
    }

    /// The chunk in which [`Self::apply`], [`Self::query`] or [`Self::image_read`] met bytes that are not
    /// what was written ([`CHUNK_UNKNOWN`] if that cannot be told); none: all that was read was sound. Said
    /// from the first finding on until [`Self::image_finish`] succeeds. Asked after every operation, query
    /// and chunk, before anything made from them leaves, so it must cost no more than a load.
    ///
    /// A machine that meets damage stops changing its state, returns any size and does not panic: what it
    /// wrote as a reply is thrown away, the operation counts as not executed, and what it changed until
    /// then, told by [`Self::image_changed_at`], is replaced together with what is damaged.
    fn damaged(&self) -> Option<u64> {
        None
    }

    /// How many chunks, from the one that [`Self::damaged`] or [`Self::scrub`] named last, the damage may
    /// lie in: what is damaged may span several, and its checksum does not say which. All of them are
    /// fetched.
    fn damaged_span(&self) -> u64 {
        1
    }
}

//! A state machine in four methods, for everybody whose state is small.
//!
//! [`StateMachine`] lets a machine of gigabytes show its state in chunks and keep its digest up to
//! date byte by byte. A machine of kilobytes can afford to encode everything instead:
//! [`Simple`] asks for just that, and [`SimpleMachine`] makes a whole state machine of it.
//!
//! What it costs: the whole state is encoded once for every digest (ten times a second, by default)
//! and once for every transfer. Up to a few megabytes nobody will notice.
//!
//! ```
//! use vsr_node::simple::{Context, Simple};
//!
//! struct Counter(u64);
//!
//! impl Simple for Counter {
//!     fn apply(&mut self, _: &Context, operation: &[u8]) -> Vec<u8> {
//!         self.0 += operation.len() as u64;
//!         self.encode()
//!     }
//!     fn query(&self, _: &Context, _: &[u8]) -> Vec<u8> {
//!         self.encode()
//!     }
//!     fn encode(&self) -> Vec<u8> {
//!         self.0.to_le_bytes().to_vec()
//!     }
//!     fn decode(bytes: &[u8]) -> Option<Self> {
//!         bytes.try_into().ok().map(u64::from_le_bytes).map(Self)
//!     }
//! }
//! ```

use std::cell::RefCell;

pub use vsr_consensus::{Context, Refusal};
use vsr_consensus::{ImageError, Scrub, StateMachine};
use vsr_types::{Digest, Op};

/// The size of a chunk of the image: a good size for one message.
const CHUNK: usize = 64 * 1024;

/// The largest state that is taken from another replica, in chunks (256 MiB).
const CHUNKS_MAX: u64 = 4096;

/// A deterministic state machine whose whole state can be encoded at once. Equal states must have
/// equal encodings: of maps, take those that are ordered.
pub trait Simple: Sized {
    /// Executes one operation and returns the reply. The same state and the same arguments must give
    /// the same state and the same reply, on every machine.
    fn apply(&mut self, at: &Context, operation: &[u8]) -> Vec<u8>;

    /// Answers a question without changing anything.
    fn query(&self, at: &Context, query: &[u8]) -> Vec<u8>;

    /// The whole state in bytes.
    fn encode(&self) -> Vec<u8>;

    /// The state out of what [`Self::encode`] returned; none if the bytes are no state.
    fn decode(bytes: &[u8]) -> Option<Self>;

    /// Whether an operation makes sense at all. What is refused here never enters the log.
    ///
    /// # Errors
    /// A code of your own, which the client is told.
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        let _ = operation;
        Ok(())
    }
}

/// Makes a [`StateMachine`] of a [`Simple`] one.
#[derive(Debug)]
pub struct SimpleMachine<M> {
    machine: M,
    changed_at: Op,
    /// The encoding of the present state, if somebody has asked for it since it changed.
    encoded: RefCell<Option<Vec<u8>>>,
    incoming: Vec<Option<Vec<u8>>>,
}

impl<M: Simple> SimpleMachine<M> {
    /// Takes the initial state, which must be the same on every replica.
    #[must_use]
    pub const fn new(machine: M) -> Self {
        Self {
            machine,
            changed_at: Op::ZERO,
            encoded: RefCell::new(None),
            incoming: Vec::new(),
        }
    }

    /// The machine itself.
    pub const fn inner(&self) -> &M {
        &self.machine
    }

    fn with_encoded<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(
            self.encoded
                .borrow_mut()
                .get_or_insert_with(|| self.machine.encode()),
        )
    }
}

fn put(reply: &[u8], into: &mut [u8]) -> usize {
    assert!(
        reply.len() <= into.len(),
        "a reply of {} bytes does not fit into the {} that a reply may have",
        reply.len(),
        into.len()
    );
    into[..reply.len()].copy_from_slice(reply);
    reply.len()
}

/// FNV-1a over 128 bits (Fowler, Noll and Vo): fixed for ever, and every bit of the input matters.
fn fnv1a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    })
}

impl<M: Simple> StateMachine for SimpleMachine<M> {
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        self.machine.validate(operation)
    }

    fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        self.changed_at = at.stamp.op;
        *self.encoded.get_mut() = None;
        put(&self.machine.apply(at, operation), reply)
    }

    fn query(&self, at: &Context, query: &[u8], reply: &mut [u8]) -> usize {
        put(&self.machine.query(at, query), reply)
    }

    fn digest(&self) -> Digest {
        Digest::new(self.with_encoded(fnv1a))
    }

    fn image_chunks(&self) -> u64 {
        self.with_encoded(|bytes| bytes.len().div_ceil(CHUNK) as u64)
    }

    fn image_chunk_size(&self) -> usize {
        CHUNK
    }

    fn image_changed_at(&self, _chunk: u64) -> Op {
        self.changed_at
    }

    fn image_read(&self, chunk: u64, into: &mut [u8]) -> usize {
        self.with_encoded(|bytes| {
            let start = usize::try_from(chunk)
                .expect("64 bits")
                .saturating_mul(CHUNK)
                .min(bytes.len());
            put(&bytes[start..bytes.len().min(start + CHUNK)], into)
        })
    }

    fn image_begin(&mut self, chunks: u64) -> Result<(), ImageError> {
        if chunks > CHUNKS_MAX {
            return Err(ImageError::TooLarge);
        }
        if self.incoming.is_empty() {
            // What does not come is as it is here.
            let own = self.machine.encode();
            let own = own.chunks(CHUNK).map(|chunk| Some(chunk.to_vec()));
            self.incoming = own.collect();
        }
        let count = usize::try_from(chunks).expect("bounded just above");
        self.incoming.resize(count, None);
        Ok(())
    }

    fn image_put(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let place = usize::try_from(chunk).map_err(|_| ImageError::BadChunk)?;
        let slot = self.incoming.get_mut(place).ok_or(ImageError::BadChunk)?;
        if !(1..=CHUNK).contains(&bytes.len()) {
            return Err(ImageError::BadChunk);
        }
        *slot = Some(bytes.to_vec());
        Ok(())
    }

    fn image_finish(&mut self, at: Op) -> Result<(), ImageError> {
        let chunks: Option<Vec<Vec<u8>>> = self.incoming.drain(..).collect();
        let chunks = chunks.ok_or(ImageError::Invalid)?;
        let is_whole = |chunk: &Vec<u8>| chunk.len() == CHUNK;
        if !chunks.iter().rev().skip(1).all(is_whole) {
            return Err(ImageError::Invalid);
        }
        let bytes = chunks.concat();
        self.machine = M::decode(&bytes).ok_or(ImageError::Invalid)?;
        self.changed_at = at;
        *self.encoded.get_mut() = None;
        Ok(())
    }

    /// Always clean: nothing here has a checksum of its own. Damage shows when digests are compared.
    fn scrub(&mut self, _budget: usize) -> Scrub {
        Scrub::Clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers everything it is told.
    #[derive(Debug, PartialEq, Eq)]
    struct Log(Vec<u8>);

    impl Simple for Log {
        fn apply(&mut self, _: &Context, operation: &[u8]) -> Vec<u8> {
            self.0.extend_from_slice(operation);
            self.0.len().to_le_bytes().to_vec()
        }

        fn query(&self, _: &Context, _: &[u8]) -> Vec<u8> {
            self.0[..self.0.len().min(8)].to_vec()
        }

        fn encode(&self) -> Vec<u8> {
            self.0.clone()
        }

        fn decode(bytes: &[u8]) -> Option<Self> {
            (!bytes.starts_with(b"bad")).then(|| Self(bytes.to_vec()))
        }
    }

    fn filled(size: usize) -> SimpleMachine<Log> {
        let mut machine = SimpleMachine::new(Log(Vec::new()));
        let mut reply = [0; 64];
        let mut at = Context::default();
        for i in 0..size {
            at.stamp.op = Op::new(i as u64 + 1);
            machine.apply(&at, &[i as u8, (i >> 8) as u8], &mut reply);
        }
        machine
    }

    #[test]
    fn equal_states_have_equal_digests_and_a_change_shows() {
        let mut one = filled(1000);
        let two = filled(1000);
        assert_eq!(one.digest(), two.digest());
        one.apply(&Context::default(), b"x", &mut [0; 64]);
        assert_ne!(one.digest(), two.digest());
    }

    #[test]
    fn an_image_carries_the_whole_state_in_any_order() {
        let source = filled(70_000);
        assert_eq!(source.image_chunks(), 3);
        assert_eq!(source.image_changed_at(0), Op::new(70_000));
        let mut target = SimpleMachine::new(Log(b"old".to_vec()));
        target.image_begin(3).unwrap();
        let mut buffer = vec![0; CHUNK];
        for chunk in [2, 0, 1, 0] {
            let size = source.image_read(chunk, &mut buffer);
            target.image_put(chunk, &buffer[..size]).unwrap();
        }
        target.image_finish(Op::new(70_000)).unwrap();
        assert_eq!(target.inner(), source.inner());
        assert_eq!(target.digest(), source.digest());
    }

    #[test]
    fn what_does_not_come_is_as_it_was() {
        let source = filled(70_000);
        let mut target = filled(70_000);
        target.image_begin(3).unwrap();
        target.image_finish(Op::new(70_000)).unwrap();
        assert_eq!(target.inner(), source.inner());
        // The last chunk has grown, and there is one more.
        let source = filled(110_000);
        target.image_begin(3).unwrap();
        let mut buffer = vec![0; CHUNK];
        for (chunks, chunk) in [(3, 2), (4, 3)] {
            target.image_begin(chunks).unwrap();
            let size = source.image_read(chunk, &mut buffer);
            target.image_put(chunk, &buffer[..size]).unwrap();
        }
        target.image_finish(Op::new(110_000)).unwrap();
        assert_eq!(target.inner(), source.inner());
    }

    #[test]
    fn images_that_are_none_are_refused() {
        let mut machine = filled(1);
        assert_eq!(
            machine.image_begin(CHUNKS_MAX + 1),
            Err(ImageError::TooLarge)
        );
        machine.image_begin(3).unwrap();
        for (chunk, size) in [(3, CHUNK), (1, CHUNK + 1), (1, 0)] {
            let put = machine.image_put(chunk, &vec![0; size]);
            assert_eq!(put, Err(ImageError::BadChunk), "{chunk}: {size} bytes");
        }
        machine.image_put(2, b"short").unwrap();
        let missing = machine.image_finish(Op::ZERO);
        assert_eq!(missing, Err(ImageError::Invalid), "chunk 1 is missing");
        machine.image_begin(2).unwrap();
        machine.image_put(0, b"short").unwrap();
        machine.image_put(1, b"short").unwrap();
        let short = machine.image_finish(Op::ZERO);
        assert_eq!(short, Err(ImageError::Invalid), "chunk 0 is short");
        machine.image_begin(1).unwrap();
        machine.image_put(0, b"bad state").unwrap();
        assert_eq!(machine.image_finish(Op::ZERO), Err(ImageError::Invalid));
    }
}

//! A machine with a log of its own: command lines in, replies out.

use crate::kv::store::Store;
use crate::kv::{KvMachine, OperationBuilder, ReplyReader, digest, lookup};
use vsr_consensus::{Context, StateMachine};
use vsr_types::{ClientId, Op, Timestamp, ViewStamp};

/// The size of the reply buffer that a replica gives.
pub(super) const REPLY_SIZE: usize = 1 << 20;

impl KvMachine {
    /// A machine with less memory than [`Self::new`] allows.
    pub(super) fn tiny(memory: usize) -> Self {
        let mut machine = Self::new(crate::kv::MEMORY_MIN);
        machine.store = Store::new(memory);
        machine
    }

    /// Whether its image is `chunks`.
    pub(super) fn same_bytes(&self, chunks: &[Vec<u8>]) -> bool {
        let mut at = 0;
        chunks.iter().all(|chunk| {
            let here = self.store.arena.bytes(at, chunk.len());
            at += chunk.len();
            here == chunk
        }) && at == self.store.image_size()
    }
}

/// A numbered sequence of pseudo-random numbers: failures name the seed.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        digest::mix(self.0, 0x5EED)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// A machine and its place in the order of things.
#[derive(Clone)]
pub(super) struct Fixture {
    pub(super) machine: KvMachine,
    pub(super) op: u64,
    /// The replicated time, in milliseconds.
    pub(super) now: u64,
    reply: Vec<u8>,
}

impl Fixture {
    pub(super) fn new(memory: usize) -> Self {
        Self::with(KvMachine::new(memory))
    }

    pub(super) fn with(machine: KvMachine) -> Self {
        Self {
            machine,
            op: 0,
            now: 1_700_000_000_000,
            reply: vec![0; REPLY_SIZE],
        }
    }

    pub(super) fn context(&self) -> Context {
        Context {
            stamp: ViewStamp {
                op: Op::new(self.op),
                ..ViewStamp::default()
            },
            index: 0,
            timestamp: Timestamp::from_nanos(self.now * 1_000_000),
            client: ClientId::new(77),
        }
    }

    /// Applies a packed operation as the next op.
    pub(super) fn apply(&mut self, operation: &[u8]) -> Vec<u8> {
        self.op += 1;
        let size = self
            .machine
            .apply(&self.context(), operation, &mut self.reply);
        self.reply[..size].to_vec()
    }

    pub(super) fn query(&mut self, query: &[u8]) -> Vec<u8> {
        let context = self.context();
        let size = self.machine.query(&context, query, &mut self.reply);
        self.reply[..size].to_vec()
    }

    /// Executes one command line.
    pub(super) fn words(&mut self, words: &[&[u8]]) -> Vec<u8> {
        let operation = pack(words);
        self.machine.validate(&operation).expect("well formed");
        only(&self.apply(&operation))
    }

    /// The same, written as text without quotes.
    pub(super) fn run(&mut self, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        String::from_utf8(self.words(&words)).expect("text")
    }
}

/// Packs one command line.
pub(super) fn pack(words: &[&[u8]]) -> Vec<u8> {
    let spec = lookup(words[0]).expect("a known command");
    let mut builder =
        OperationBuilder::new(vec![
            0;
            64 + words.iter().map(|w| w.len() + 4).sum::<usize>()
        ]);
    builder
        .push(spec.opcode().expect("the machine's"), &words[1..])
        .expect("fits");
    builder.operation().to_vec()
}

/// The only reply of a packed reply.
pub(super) fn only(reply: &[u8]) -> Vec<u8> {
    let mut replies = ReplyReader::parse(reply).expect("well formed");
    assert_eq!(replies.executed(), 1);
    replies.next().expect("one").to_vec()
}

/// All chunks of a machine's image.
pub(super) fn image(machine: &KvMachine) -> Vec<Vec<u8>> {
    (0..machine.image_chunks())
        .map(|chunk| {
            let mut bytes = vec![0; machine.image_chunk_size()];
            let size = machine.image_read(chunk, &mut bytes);
            bytes.truncate(size);
            bytes
        })
        .collect()
}

/// Panics unless both hold the same bytes and the same digest.
pub(super) fn assert_identical(a: &KvMachine, b: &KvMachine) {
    assert_eq!(a.digest(), b.digest());
    assert_eq!(a.image_chunks(), b.image_chunks());
    for (chunk, (a, b)) in image(a).iter().zip(image(b)).enumerate() {
        assert!(*a == b, "chunk {chunk} differs");
    }
}

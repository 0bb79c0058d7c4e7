//! The machine as the replica sees it: [`KvMachine`], an implementation of `StateMachine`.

use super::arena::{Arena, CHUNK_SIZE};
use super::codec::{Entries, Malformed};
use super::commands::Opcode;
use super::damage::Damage;
use super::execute::{Moment, check_transaction};
use super::image::Installing;
use super::layout::{ARENA_SIZE_MAX, MAGIC};
use super::store::Store;
use vsr_consensus::{Context, ImageError, Refusal, Scrub, StateMachine};
use vsr_types::memory::{Level, Pool};
use vsr_types::message::ImageLayout;
use vsr_types::{Digest, Op};

/// The smallest memory a machine may have, in bytes: a few entries of the largest size.
pub const MEMORY_MIN: usize = 4 << 20;
/// The largest, in bytes (32 GiB): what 32-bit places address.
pub const MEMORY_MAX: usize = ARENA_SIZE_MAX;

/// Keys whose time has come that one operation removes, besides [`SWEEP_PER_ENTRY`].
const SWEEP: u32 = 16;
/// And that each of its commands adds, so that a load of short-lived keys cannot outrun the sweep.
const SWEEP_PER_ENTRY: u32 = 4;
/// The most that one operation removes, so that a large one does not pause for them.
const SWEEP_MAX: u32 = 1024;

/// The refusal of an operation that is not in the form of [`super::codec`].
pub const REFUSED_MALFORMED: u64 = 1;

/// The built-in key-value machine: Redis' string and key commands over one arena.
///
/// Everything it knows lies in memory allocated by [`Self::new`]; it allocates nothing later. Two
/// machines of one memory size that execute the same operations hold the same bytes.
///
/// ```
/// use vsr_consensus::{Context, StateMachine};
/// use vsr_node::kv::{KvMachine, Opcode, OperationBuilder, ReplyReader};
/// let mut machine = KvMachine::new(8 << 20);
/// let mut operation = OperationBuilder::new(vec![0; 1024]);
/// operation.push(Opcode::Set, &[b"key", b"value"])?;
/// operation.push(Opcode::Get, &[b"key"])?;
/// machine.validate(operation.operation()).expect("well formed");
/// let mut reply = vec![0; 4096];
/// let size = machine.apply(&Context::default(), operation.operation(), &mut reply);
/// let mut replies = ReplyReader::parse(&reply[..size])?;
/// assert_eq!(replies.next(), Some(&b"+OK\r\n"[..]));
/// assert_eq!(replies.next(), Some(&b"$5\r\nvalue\r\n"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct KvMachine {
    pub(super) store: Store,
    installing: Option<Installing>,
    /// What the scrubber named last.
    scrubbed: Option<Damage>,
}

/// Figures about the machine, for `status`, `INFO` and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvReport {
    /// Entries, those included that are due and wait for the sweep.
    pub keys: u64,
    /// Entries with a deadline.
    pub expiring: u64,
    /// Bytes of blocks that hold entries.
    pub used_bytes: u64,
    /// Bytes of the image: header, table and heap with its holes.
    pub image_bytes: u64,
    /// The limit: bytes of the arena.
    pub limit_bytes: u64,
    /// Changes of keys since the cluster began.
    pub changes: u64,
}

impl KvMachine {
    /// An empty machine with an arena of `memory_bytes`, rounded down to whole chunks and touched.
    /// All replicas of a cluster must be given the same: the limit is part of the state.
    ///
    /// # Panics
    /// When `memory_bytes` is not between [`MEMORY_MIN`] and [`MEMORY_MAX`].
    #[must_use]
    pub fn new(memory_bytes: usize) -> Self {
        let mut machine = Self::untouched(memory_bytes);
        machine.store.prefault();
        machine
    }

    /// The same, with an arena that becomes resident bit by bit, while it is used.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn untouched(memory_bytes: usize) -> Self {
        assert!(
            (MEMORY_MIN..=MEMORY_MAX).contains(&memory_bytes),
            "the memory of the key-value machine is between 4 MiB and 32 GiB"
        );
        Self {
            store: Store::new(memory_bytes / CHUNK_SIZE * CHUNK_SIZE),
            installing: None,
            scrubbed: None,
        }
    }

    /// What a machine of `memory_bytes` allocates.
    #[must_use]
    pub const fn pools(memory_bytes: usize) -> [Pool; 2] {
        let size = memory_bytes / CHUNK_SIZE * CHUNK_SIZE;
        let pool = Pool {
            part: "key-value machine",
            name: "arena",
            purpose: "all keys and values, and the tables that find them",
            setting: "memory",
            unit: "bytes",
            count: size,
            size: 1,
            is_later: false,
        };
        [
            pool,
            Pool {
                name: "changes of the arena",
                purpose: "which op last changed each chunk of the image",
                unit: "chunks",
                count: Arena::chunks(size),
                size: size_of::<u64>(),
                ..pool
            },
        ]
    }

    /// How much of that is used: the arena from its start to the end of its heap, holes included.
    #[must_use]
    pub fn levels(&self) -> [Level; 2] {
        let (size, chunks) = (self.store.image_size(), self.store.chunks());
        let most = (self.store.furthest as usize).saturating_mul(super::layout::GRANULE);
        let most = most.min(self.store.arena.size());
        [
            Level::new("arena", size, most),
            Level::new("changes of the arena", chunks, most.div_ceil(CHUNK_SIZE)),
        ]
    }

    /// Figures about the state.
    #[must_use]
    pub fn kv_report(&self) -> KvReport {
        let g = &self.store.globals;
        KvReport {
            keys: g.keys,
            expiring: g.expiring,
            used_bytes: g.used * super::layout::GRANULE as u64,
            image_bytes: self.store.image_size() as u64,
            limit_bytes: g.limit,
            changes: g.version,
        }
    }

    /// From when on an operation, be it an empty one, makes keys disappear (or come closer to it), in
    /// milliseconds since the Unix epoch; `None` while no key has a deadline.
    ///
    /// Time passes for the machine with its operations only. A node that serves reads orders an
    /// operation without commands (four zero bytes) at this time if nothing else has been ordered.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.store.next_sweep()
    }

    /// Recomputes all that is derived (digest, counts, lists) from the entries and says whether it
    /// is what the machine believes. Walks the whole state.
    #[must_use]
    pub fn verify(&self) -> bool {
        self.store.verify().is_ok()
    }
}

impl KvMachine {
    fn execute(
        &mut self,
        at: &Context,
        operation: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, Damage> {
        let store = &mut self.store;
        store.verify_globals()?;
        let before = store.globals;
        let moment = Moment::of(at);
        store.arena.begin_op(at.stamp.op.raw());
        store.begin_work();
        if store.globals.seed == 0 {
            store.seed(at.client.raw(), at.timestamp.as_nanos());
        }
        let entries = Entries::parse(operation).map_or(0, |entries| entries.len());
        let extra = u32::try_from(entries)
            .unwrap_or(u32::MAX)
            .saturating_mul(SWEEP_PER_ENTRY);
        store.sweep(moment.now, SWEEP.saturating_add(extra).min(SWEEP_MAX))?;
        let size = store.execute(&moment, operation, reply)?;
        if store.globals != before {
            store.sync();
        }
        Ok(size)
    }
}

impl StateMachine for KvMachine {
    fn validate(&self, operation: &[u8]) -> Result<(), Refusal> {
        const MALFORMED: Refusal = Refusal {
            code: REFUSED_MALFORMED,
        };
        let mut entries = Entries::parse(operation).map_err(|_| MALFORMED)?;
        for entry in &mut entries {
            let entry = entry.map_err(|_| MALFORMED)?;
            if !entry.is_well_formed() {
                return Err(MALFORMED);
            }
            if entry.opcode == Opcode::Exec {
                check_transaction(&entry).map_err(|Malformed| MALFORMED)?;
            }
        }
        if entries.is_complete() {
            Ok(())
        } else {
            Err(MALFORMED)
        }
    }

    fn apply(&mut self, at: &Context, operation: &[u8], reply: &mut [u8]) -> usize {
        assert!(
            self.installing.is_none(),
            "nothing is executed while an image is installed"
        );
        if self.store.damage.get().is_some() {
            return 0;
        }
        let before = self.store.globals;
        self.execute(at, operation, reply).unwrap_or_else(|damage| {
            self.store.note(damage);
            // The rest of what was changed bears this op's number; these have not been written yet.
            self.store.globals = before;
            0
        })
    }

    fn query(&self, at: &Context, query: &[u8], reply: &mut [u8]) -> usize {
        let store = &self.store;
        if store.damage.get().is_some() {
            return 0;
        }
        let answered = store
            .verify_globals()
            .and_then(|()| store.answer(&Moment::of(at), query, reply));
        answered.unwrap_or_else(|damage| {
            store.note(damage);
            0
        })
    }

    fn digest(&self) -> Digest {
        self.store.digest()
    }

    fn is_digest_sound(&self) -> bool {
        self.store.verify_globals().is_ok()
    }

    fn image_chunks(&self) -> u64 {
        self.store.chunks() as u64
    }

    fn image_chunk_size(&self) -> usize {
        CHUNK_SIZE
    }

    fn image_layout(&self) -> ImageLayout {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&MAGIC.to_le_bytes());
        ImageLayout {
            name,
            capacity: self.store.arena.size() as u64,
        }
    }

    fn image_changed_at(&self, chunk: u64) -> Op {
        Op::new(self.store.arena.changed_at(chunk as usize))
    }

    fn image_read(&self, chunk: u64, into: &mut [u8]) -> usize {
        if chunk == 0
            && let Err(damage) = self.store.verify_globals()
        {
            self.store.note(damage);
        }
        self.store.read_chunk(chunk as usize, into)
    }

    fn image_begin(&mut self, chunks: u64) -> Result<(), ImageError> {
        self.installing = Some(self.store.begin_image(chunks)?);
        Ok(())
    }

    fn image_put(&mut self, chunk: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let installing = self.installing.as_mut().ok_or(ImageError::BadChunk)?;
        self.store.put_chunk(installing, chunk, bytes)
    }

    fn image_verify(&mut self, budget: usize) -> Result<bool, ImageError> {
        let installing = self.installing.as_mut().ok_or(ImageError::Invalid)?;
        let verified = self.store.verify_image(installing, budget);
        if verified.is_err() {
            self.store.fail_image();
        }
        verified
    }

    fn image_finish(&mut self, at: Op) -> Result<(), ImageError> {
        let mut installing = self.installing.take().ok_or(ImageError::Invalid)?;
        let finished = self.store.finish_image(&mut installing, at);
        if finished.is_err() {
            self.store.fail_image();
        }
        finished
    }

    fn damaged(&self) -> Option<u64> {
        self.store.damage.get().map(Damage::chunk)
    }

    fn damaged_span(&self) -> u64 {
        let named = self.store.damage.get().or(self.scrubbed);
        named.map_or(1, Damage::span)
    }

    fn scrub(&mut self, budget: usize) -> Scrub {
        if self.installing.is_some() {
            return Scrub::Clean;
        }
        let known = self.store.damage.get();
        let found = known.map_or_else(|| self.store.scrub(budget), Err);
        self.scrubbed = found.err();
        match found {
            Ok(()) => Scrub::Clean,
            Err(damage) => Scrub::Corrupt(damage.chunk()),
        }
    }

    fn scrub_size(&self) -> u64 {
        self.store.scrub_size()
    }
}

//! Who has asked for what, and what they were told: exactly-once execution (N9).
//!
//! The table is part of the replicated state. It changes only when a committed operation is executed
//! (R1.2): a table written when a request is prepared locks a client out when a view change drops
//! that prepare ("already seen", yet never executed). Since all replicas execute the same operations
//! in the same order, their tables are equal, and so is the order in which sessions are evicted
//! (R1.5): the one whose last operation is the oldest goes first, never by local time.
//!
//! Every entry, every link of a list and every cached reply carries a checksum that is verified when it
//! is read (N17). What fails is noted ([`Sessions::take_damage`]) and answered with something harmless:
//! whoever executes or answers asks for the note before anything leaves. The replies lie in fixed blocks
//! of one pool; a session whose new reply does not fit evicts the oldest others until it does, on every
//! replica alike.
//!
//! ```text
//! index: client -> slot      entries[slot]          blocks of the reply
//!   [ . . 3 . 0 . ]          { client, request, .. , first_block } -> [b] -> [b] -> end
//!                            oldest <-> ... <-> newest   (order of last execution)
//! ```

mod damage;
mod image;
mod links;
mod replies;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec;

use bytemuck::{Pod, Zeroable};
use static_assertions::const_assert_eq;
use vsr_types::memory::{Level, Pool, touch};
use vsr_types::{
    Checksum, ClientId, Digest, Epoch, Op, RequestNumber, SessionNumber, checksum,
    checksum_behind_first,
};

use crate::mutants::Mutant;
use damage::Mark;
pub(crate) use damage::Numbers;
use image::Changes;
pub(crate) use image::{CHUNK_SIZE, SessionsImage};
use links::Link;
use replies::{NO_BLOCK, Replies};

/// No slot: the end of a list or an empty place of the index.
const NONE: u32 = u32::MAX;

/// One session, as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    checksum: Checksum,
    reply_checksum: Checksum,
    client: ClientId,
    session: SessionNumber,
    epoch: Epoch,
    request: RequestNumber,
    op: Op,
    index: u32,
    request_checksum: Checksum,
    reply_size: u32,
    reply_block: u32,
}

const_assert_eq!(size_of::<Entry>(), 72);

impl Entry {
    #[inline]
    fn is_sound(&self) -> bool {
        self.checksum == self.computed_checksum()
    }

    fn computed_checksum(&self) -> Checksum {
        checksum_behind_first(bytemuck::bytes_of(self))
    }

    /// A number that spreads the entry's content over 128 bits, for the table's digest. The checksum
    /// covers everything in the entry, and the entry's reply by the reply's own checksum.
    fn digest(&self, slot: u32) -> u128 {
        let seed = (u64::from(slot) << 32) | u64::from(self.checksum.raw());
        (u128::from(mix(seed)) << 64) | u128::from(mix(seed ^ 0x9E37_79B9_7F4A_7C15))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// What the last request of a session was and where its answer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionReport {
    /// The client.
    pub client: ClientId,
    /// Its session: the op that registered it.
    pub session: SessionNumber,
    /// The last request executed.
    pub request: RequestNumber,
    /// The op of that request.
    pub op: Op,
    /// The size of its cached reply in bytes.
    pub reply_size: u32,
}

/// A place in the session table. Valid until the session is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionSlot(u32);

/// A session whose next request is at hand, with its entry as it was when it was verified: what is
/// stored next builds on that and does not read the entry again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    slot: u32,
    entry: Entry,
}

impl Held {
    pub(crate) const fn slot(&self) -> SessionSlot {
        SessionSlot(self.slot)
    }
}

/// What a request means to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No such session.
    Unknown,
    /// The client's session number is not this session's: see R1.6 (trace T28).
    OtherSession {
        /// The number the session has.
        session: SessionNumber,
    },
    /// Older than the last one executed.
    Old,
    /// The last one executed: its reply can be sent again.
    Repeated(SessionSlot),
    /// The number of the last one executed with other content.
    Reused,
    /// The next one.
    Next(Held),
    /// Further ahead than the next: the client does not keep to the protocol.
    Ahead,
    /// What is known of the session is damaged.
    Damaged,
}

/// The place and identity of a request that is being executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Executed {
    pub(crate) request: RequestNumber,
    pub(crate) request_checksum: Checksum,
    pub(crate) op: Op,
    pub(crate) index: u32,
}

/// The last request of a session that was put into a batch, and that batch's op. The op matters: a
/// request that was damaged in the batch is not executed there (M2), and its retry is welcome then.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    request: RequestNumber,
    op: Op,
}

#[derive(Debug)]
pub(crate) struct Sessions {
    entries: Box<[Entry]>,
    /// The primary's memory of what it has put into batches; not part of the state.
    in_flight: Box<[InFlight]>,
    /// Towards older and newer sessions.
    older: Box<[Link]>,
    newer: Box<[Link]>,
    oldest: u32,
    newest: u32,
    /// Slots not in use, linked through `newer`.
    free: u32,
    count: usize,
    /// The most there were.
    most: usize,
    /// Open addressing with linear probing and backward-shift deletion (Knuth, vol. 3, 6.4 R).
    index: Box<[u32]>,
    /// Where in the index each slot is: what tells a flipped bit there from a client unknown.
    places: Box<[u32]>,
    replies: Replies,
    /// Which parts of the image changed when.
    changes: Changes,
    digest: u128,
    /// Damage that was met, until somebody asks.
    damage: Mark,
    /// See [`Self::without`].
    #[cfg(feature = "mutate")]
    mutant: Option<Mutant>,
}

impl Sessions {
    pub(crate) fn new(sessions: usize, reply_bytes: usize) -> Self {
        let count = u32::try_from(sessions).expect("the configuration bounds the sessions");
        assert!(count < NONE, "the configuration bounds the sessions");
        Self {
            entries: vec![Entry::zeroed(); sessions].into_boxed_slice(),
            in_flight: vec![InFlight::default(); sessions].into_boxed_slice(),
            older: links::ends(count),
            newer: links::in_order(count),
            oldest: NONE,
            newest: NONE,
            free: 0,
            count: 0,
            most: 0,
            index: vec![NONE; Self::index_size(sessions)].into_boxed_slice(),
            places: vec![NONE; sessions].into_boxed_slice(),
            replies: Replies::new(reply_bytes),
            changes: Changes::new(sessions, reply_bytes),
            digest: 0,
            damage: Mark::default(),
            #[cfg(feature = "mutate")]
            mutant: None,
        }
    }

    /// The broken table of a test that does without a rule.
    #[cfg(feature = "mutate")]
    pub(crate) const fn without(mut self, rule: Option<Mutant>) -> Self {
        self.mutant = rule;
        self
    }

    /// Whether this test build does without the rule.
    #[cfg_attr(
        not(feature = "mutate"),
        expect(
            clippy::unused_self,
            reason = "a build without switches has nothing to look at"
        )
    )]
    #[inline]
    fn is_off(&self, rule: Mutant) -> bool {
        #[cfg(feature = "mutate")]
        {
            self.mutant == Some(rule)
        }
        #[cfg(not(feature = "mutate"))]
        {
            let _ = rule;
            false
        }
    }

    /// At most half of the places are taken, so that probes stay short.
    const fn index_size(sessions: usize) -> usize {
        (sessions * 2).next_power_of_two()
    }

    /// What a table of this size allocates.
    pub(crate) const fn pools(sessions: usize, reply_bytes: usize) -> [Pool; 4] {
        let pool = Pool {
            part: "sessions and replies",
            name: "sessions",
            purpose: "who asked last for what, in the order of that",
            setting: "sessions",
            unit: "sessions",
            count: sessions,
            size: size_of::<Entry>()
                + size_of::<InFlight>()
                + size_of::<u32>()
                + 2 * size_of::<Link>(),
            is_later: false,
        };
        let chunks = Changes::count(sessions, reply_bytes);
        [
            pool,
            Pool {
                name: "index of sessions",
                purpose: "finds a client's session",
                unit: "places",
                count: Self::index_size(sessions),
                size: size_of::<u32>(),
                ..pool
            },
            Pool {
                name: "cached replies",
                purpose: "the last reply of every session, in chained blocks",
                setting: "reply-size",
                unit: "blocks",
                count: Replies::blocks(reply_bytes),
                size: Replies::BLOCK,
                ..pool
            },
            Pool {
                name: "changes of sessions",
                purpose: "which op last changed each chunk of the image",
                setting: "reply-size",
                unit: "chunks",
                count: chunks,
                size: size_of::<Op>(),
                ..pool
            },
        ]
    }

    /// How much of its pools is used.
    pub(crate) const fn levels(&self) -> [Level; 4] {
        let blocks = self.replies.next.len();
        let chunks = self.image_chunks() as usize;
        [
            Level::new("sessions", self.count, self.most),
            Level::new("index of sessions", self.count, self.most),
            Level::new(
                "cached replies",
                blocks - self.replies.free_count,
                blocks - self.replies.least_free,
            ),
            Level::new("changes of sessions", chunks, chunks),
        ]
    }

    /// Touches what was allocated and not written to.
    pub(crate) fn prefault(&mut self) {
        assert!(self.most == 0, "nothing is stored yet");
        touch(&mut self.replies.bytes);
        touch(bytemuck::cast_slice_mut(&mut self.entries));
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The digest of the whole table, kept up to date with every change.
    pub(crate) const fn digest(&self) -> Digest {
        Digest::new(self.digest)
    }

    /// What `request` of `client`, who believes to have `session`, means (R1.3).
    pub(crate) fn verdict(
        &self,
        client: ClientId,
        session: SessionNumber,
        request: RequestNumber,
        request_checksum: Checksum,
    ) -> Verdict {
        let Some(slot) = self.find(client) else {
            return if self.damage.is_set() {
                Verdict::Damaged
            } else {
                Verdict::Unknown
            };
        };
        let Some(entry) = self.entry(slot) else {
            return Verdict::Damaged;
        };
        if entry.session != session {
            return Verdict::OtherSession {
                session: entry.session,
            };
        }
        if request < entry.request {
            Verdict::Old
        } else if request == entry.request {
            if request_checksum == entry.request_checksum {
                Verdict::Repeated(SessionSlot(slot))
            } else {
                Verdict::Reused
            }
        } else if request == entry.request.next() {
            Verdict::Next(Held {
                slot,
                entry: *entry,
            })
        } else {
            Verdict::Ahead
        }
    }

    /// The session of `client`, if it has one.
    pub(crate) fn slot_of(&self, client: ClientId) -> Option<SessionSlot> {
        self.find(client).map(SessionSlot)
    }

    /// Whether `request` is being worked on (R1.3e), everything up to `applied` being executed.
    pub(crate) fn is_in_flight(
        &self,
        slot: SessionSlot,
        request: RequestNumber,
        applied: Op,
    ) -> bool {
        let last = self.in_flight[slot.0 as usize];
        last.request == request && last.op > applied
    }

    /// Notes that `request` has been put into the batch that becomes `op`.
    pub(crate) fn set_in_flight(&mut self, slot: SessionSlot, request: RequestNumber, op: Op) {
        self.in_flight[slot.0 as usize] = InFlight { request, op };
    }

    /// Forgets what was put into batches: another primary leads.
    pub(crate) fn clear_in_flight(&mut self) {
        self.in_flight.fill(InFlight::default());
    }

    /// The number of the session in `slot`; none when it is damaged.
    pub(crate) fn session_number(&self, slot: SessionSlot) -> Option<SessionNumber> {
        Some(self.entry(slot.0)?.session)
    }

    /// Executes a register: opens a session for `client`, evicting the oldest if there is no room.
    /// The caller stores its reply as that of request 0.
    pub(crate) fn open(&mut self, client: ClientId, epoch: Epoch, op: Op) -> Held {
        assert!(
            self.find(client).is_none(),
            "a client has at most one session"
        );
        self.changes.begin(op);
        if self.free == NONE {
            // R1.5: the session whose last operation is the oldest.
            self.evict(self.oldest);
        }
        let slot = self.free;
        let Some(next) = self.newer(slot) else {
            // Nothing is executed on what is damaged: what is returned leads nowhere.
            return Held {
                slot: NONE,
                entry: Entry::zeroed(),
            };
        };
        self.free = next;
        let entry = Entry {
            client,
            session: SessionNumber::new(op.raw()),
            epoch,
            reply_block: NO_BLOCK,
            ..Entry::zeroed()
        };
        let entry = self.write(slot, entry);
        self.in_flight[slot as usize] = InFlight::default();
        self.index_insert(client, slot);
        self.link_newest(slot);
        self.count += 1;
        self.most = self.most.max(self.count);
        Held { slot, entry }
    }

    /// Stores what was executed for the session and what it is told. Returns the checksum of that.
    pub(crate) fn store(&mut self, held: &Held, executed: Executed, reply: &[u8]) -> Checksum {
        let &Held { slot, ref entry } = held;
        let reply_checksum = checksum(reply);
        if slot == NONE {
            return reply_checksum;
        }
        self.changes.begin(executed.op);
        self.digest = self.digest.wrapping_sub(entry.digest(slot));
        self.make_newest(slot);
        let reply_block = match self
            .replies
            .replace(entry.reply_block, reply, &mut self.changes)
        {
            true => entry.reply_block,
            false => match self.store_anew(held, reply) {
                Some(block) => block,
                None => return reply_checksum,
            },
        };
        let entry = Entry {
            request: executed.request,
            request_checksum: executed.request_checksum,
            op: executed.op,
            index: executed.index,
            reply_size: reply.len() as u32,
            reply_checksum,
            reply_block,
            ..*entry
        };
        self.write(slot, entry);
        reply_checksum
    }

    /// Stores a reply that takes other blocks than the one before it, and returns its first block; none,
    /// and a note, when what it meets is damaged.
    fn store_anew(&mut self, held: &Held, reply: &[u8]) -> Option<u32> {
        let &Held { slot, ref entry } = held;
        self.free_reply(entry.reply_block);
        while !self.replies.has_room(reply.len()) && !self.damage.is_set() {
            // The session at hand is the newest, and its own blocks are free: what is left to evict
            // is another's, and an empty pool takes any reply (`Settings::validate`).
            assert!(self.oldest != slot, "an empty pool takes any reply");
            self.evict(self.oldest);
        }
        if self.damage.is_set() {
            return None;
        }
        let block = self.replies.write(reply, &mut self.changes);
        if block.is_none() {
            self.note_lists();
        }
        block
    }

    fn make_newest(&mut self, slot: u32) {
        if self.newest != slot {
            self.unlink(slot);
            self.link_newest(slot);
        }
    }

    /// Copies the cached reply of a session into `into` and says where it was executed; none when any
    /// of that is damaged (N17: a reply that is not what was written never reaches a client).
    pub(crate) fn reply<'a>(
        &self,
        slot: SessionSlot,
        into: &'a mut [u8],
    ) -> Option<(Executed, &'a [u8])> {
        let entry = self.entry(slot.0)?;
        let reply = &mut into[..entry.reply_size as usize];
        let is_read = self.replies.read(entry.reply_block, reply).is_some();
        let is_sound =
            checksum(reply) == entry.reply_checksum || self.is_off(Mutant::RepliesUnverified);
        if !is_read || !is_sound {
            self.note_reply(entry);
            return None;
        }
        let executed = Executed {
            request: entry.request,
            request_checksum: entry.request_checksum,
            op: entry.op,
            index: entry.index,
        };
        Some((executed, reply))
    }

    /// All sessions, the one that would be evicted first first.
    pub(crate) fn reports(&self) -> impl Iterator<Item = SessionReport> {
        let mut next = self.oldest;
        let mut left = self.count;
        core::iter::from_fn(move || {
            let slot = next;
            // Damage ends the list; who looks around does not take part in finding it.
            left = left.checked_sub(1)?;
            let entry = *self.entries.get(slot as usize).filter(|e| e.is_sound())?;
            next = self.newer[slot as usize].open(slot)?;
            Some(SessionReport {
                client: entry.client,
                session: entry.session,
                request: entry.request,
                op: entry.op,
                reply_size: entry.reply_size,
            })
        })
    }

    /// The entry in `slot`, verified; none, and a note, when it is damaged.
    #[inline]
    fn entry(&self, slot: u32) -> Option<&Entry> {
        let Some(entry) = self.entries.get(slot as usize) else {
            self.note_lists();
            return None;
        };
        if !entry.is_sound() && !self.is_off(Mutant::SessionsUnverified) {
            self.note_slot(slot);
            return None;
        }
        Some(entry)
    }

    /// The next newer one in the list of `slot`; none, and a note, when that cannot be told.
    fn newer(&self, slot: u32) -> Option<u32> {
        self.neighbour(&self.newer, slot)
    }

    fn older(&self, slot: u32) -> Option<u32> {
        self.neighbour(&self.older, slot)
    }

    /// Ends a change of the entry in `slot`: seals what it has become.
    fn write(&mut self, slot: u32, mut entry: Entry) -> Entry {
        entry.checksum = entry.computed_checksum();
        self.entries[slot as usize] = entry;
        self.changes.slot(slot);
        self.digest = self.digest.wrapping_add(entry.digest(slot));
        entry
    }

    fn evict(&mut self, slot: u32) {
        let Some(&entry) = self.entry(slot) else {
            return;
        };
        self.digest = self.digest.wrapping_sub(entry.digest(slot));
        self.free_reply(entry.reply_block);
        self.index_remove(entry.client);
        self.unlink(slot);
        if self.damage.is_set() {
            return;
        }
        self.entries[slot as usize] = Entry::zeroed();
        self.newer[slot as usize] = Link::new(slot, self.free);
        self.changes.slot(slot);
        self.free = slot;
        self.count -= 1;
    }

    fn free_reply(&mut self, block: u32) {
        if self.replies.free(block, &mut self.changes).is_none() {
            self.note_lists();
        }
    }

    fn unlink(&mut self, slot: u32) {
        let (Some(older), Some(newer)) = (self.older(slot), self.newer(slot)) else {
            return;
        };
        match older {
            NONE => self.oldest = newer,
            _ => {
                self.newer[older as usize] = Link::new(older, newer);
                self.changes.slot(older);
            }
        }
        match newer {
            NONE => self.newest = older,
            _ => {
                self.older[newer as usize] = Link::new(newer, older);
                self.changes.slot(newer);
            }
        }
    }

    fn link_newest(&mut self, slot: u32) {
        self.older[slot as usize] = Link::new(slot, self.newest);
        self.newer[slot as usize] = Link::new(slot, NONE);
        match self.newest {
            NONE => self.oldest = slot,
            newest => {
                self.newer[newest as usize] = Link::new(newest, slot);
                self.changes.slot(newest);
            }
        }
        self.changes.slot(slot);
        self.newest = slot;
    }

    fn home(&self, client: ClientId) -> usize {
        let raw = client.raw();
        let hash = mix((raw as u64) ^ mix((raw >> 64) as u64));
        hash as usize & (self.index.len() - 1)
    }

    /// Where in the index the client is, or the empty place where the search ended; none, and a note,
    /// when that cannot be told (N17: "unknown" must not be what a flipped bit says).
    fn probe(&self, client: ClientId) -> Option<usize> {
        let mut place = self.home(client);
        for _ in 0..self.index.len() {
            let slot = self.index[place];
            if slot == NONE {
                return Some(place);
            }
            if self.places.get(slot as usize) != Some(&(place as u32)) {
                break;
            }
            if self.entries[slot as usize].client == client {
                return Some(place);
            }
            // Not this one, unless its name is damaged.
            self.entry(slot)?;
            place = (place + 1) & (self.index.len() - 1);
        }
        self.note_lists();
        None
    }

    fn find(&self, client: ClientId) -> Option<u32> {
        let slot = self.index[self.probe(client)?];
        (slot != NONE).then_some(slot)
    }

    fn index_insert(&mut self, client: ClientId, slot: u32) {
        if let Some(place) = self.probe(client) {
            assert!(self.index[place] == NONE, "a client is in the index once");
            self.put(place, slot);
        }
    }

    fn put(&mut self, place: usize, slot: u32) {
        self.index[place] = slot;
        self.places[slot as usize] = place as u32;
    }

    fn index_remove(&mut self, client: ClientId) {
        let mask = self.index.len() - 1;
        let Some(mut hole) = self.probe(client) else {
            return;
        };
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let slot = self.index[place];
            if slot == NONE {
                break;
            }
            if self.places.get(slot as usize) != Some(&(place as u32)) {
                self.note_lists();
                return;
            }
            // An entry may move back into the hole unless its home lies between hole and place.
            let Some(entry) = self.entry(slot) else {
                return;
            };
            let home = self.home(entry.client);
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.put(hole, slot);
                hole = place;
            }
        }
        self.index[hole] = NONE;
    }

    /// The digest computed from scratch, to compare with the one kept up to date.
    #[cfg(test)]
    fn digest_recomputed(&self) -> Digest {
        let mut sum = 0_u128;
        let mut slot = self.oldest;
        while slot != NONE {
            sum = sum.wrapping_add(self.entry(slot).expect("sound").digest(slot));
            slot = self.newer(slot).expect("sound");
        }
        Digest::new(sum)
    }
}

/// The digest of machine and sessions together.
pub(crate) fn whole_digest(machine: Digest, sessions: Digest) -> Digest {
    let hash = |digest: Digest| {
        let raw = digest.raw();
        let (high, low) = ((raw >> 64) as u64, raw as u64);
        (u128::from(mix(high ^ mix(low))) << 64) | u128::from(mix(low.wrapping_add(mix(high))))
    };
    Digest::new(hash(machine).rotate_left(1) ^ hash(sessions))
}

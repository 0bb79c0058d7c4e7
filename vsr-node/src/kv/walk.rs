//! Going over every byte of the image, a bounded piece at a time: the scrubber, and the proof that an
//! image from elsewhere is a state.
//!
//! Every byte can be judged where it lies (`layout`), so one sequential pass in the order of the
//! addresses sees all of them: the globals, the heads of the lists, the buckets, and the heap block by
//! block; what is nobody's must be zero. Besides, what hangs together is compared:
//!
//! * the *scrubber* looks at the neighbours: a bucket and a head lead to what belongs to them, an entry
//!   is reached from its bucket, lists run the same way forwards and backwards. The state changes
//!   between its steps, so nothing is carried from one to the next but the place.
//! * the *proof* of an image adds up: the digest, the counters, and for the lists two sums that are
//!   equal when everything that is somewhere's next is that place's own exactly once. The state stands
//!   still meanwhile, and not one access leaves the sequence: an image is proved at the speed of memory.

use super::allocator::{self, class_of};
use super::damage::Damage;
use super::digest;
use super::expiry;
use super::layout::{
    Block, FIRST_LEVELS, FREE_HEADS_AT, GRANULE, Globals, HEAD_SIZE, HEADS_END, KEY_AT, LINKS_END,
    Links, Place, SECOND_LEVELS, TABLE_AT, WHEEL_LEVELS, WHEEL_SLOTS,
};
use super::store::{Entry, Store};

/// What an access out of the sequence counts against a budget of bytes: in its time so many are read.
const JUMP: usize = 256;
/// Such accesses per entry: its bucket, and what comes before it there.
const JUMPS_PER_ENTRY: u64 = 3;
/// So much is at least looked at where nothing may be.
const PIECE: usize = 64 * 1024;
/// So far (in granules) the scrubber looks for the block behind one whose header is damaged: further than
/// any entry reaches.
const RESYNC_MAX: u32 = (2 << 20) / GRANULE as u32;
/// Lists of free blocks are told from slots of the wheel by this.
const FREE_LISTS: u64 = 1 << 32;

/// How far a walk over the image has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    part: Part,
    /// In the table: the next byte.
    at: usize,
    /// In the heap: the next block.
    place: Place,
    /// How much of it was looked at, if it is a large free one.
    offset: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Header,
    Table,
    Heap,
}

impl Walk {
    /// The block at `gone` is now part of the one at `into`.
    #[inline]
    pub(super) fn boundary_moves(&mut self, gone: Place, into: Place) {
        if self.place == gone {
            (self.place, self.offset) = (into, 0);
        }
    }

    /// No block begins at `end` or behind it any more; the next one that does begins there.
    #[inline]
    pub(super) fn heap_ends(&mut self, end: Place) {
        if self.place >= end {
            (self.place, self.offset) = (end, 0);
        }
    }
}

/// What a proof adds up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Proof {
    walk: Walk,
    is_complete: bool,
    sum: u128,
    keys: u64,
    expiring: u64,
    used: u64,
    version: u64,
    /// Every place that a bucket or an entry leads to, less every entry, each with its bucket.
    chains: u64,
    /// Every step of a list as the first of the two sees it, less the same as the second does.
    lists: u64,
}

impl Proof {
    fn step(&mut self, from: Place, to: Place, list: u64) {
        self.lists = self.lists.wrapping_add(edge(from, to, list));
    }

    fn step_back(&mut self, from: Place, to: Place, list: u64) {
        self.lists = self.lists.wrapping_sub(edge(from, to, list));
    }

    fn agrees_with(&self, g: &Globals) -> bool {
        self.is_complete
            && self.sum == g.sum()
            && self.keys == g.keys
            && self.expiring == g.expiring
            && self.used == g.used
            && self.version <= g.version
            && self.chains == 0
            && self.lists == 0
    }
}

fn edge(from: Place, to: Place, list: u64) -> u64 {
    digest::mix(u64::from(from.raw()) << 32 | u64::from(to.raw()), list)
}

fn membership(place: Place, bucket: u64) -> u64 {
    digest::mix(u64::from(place.raw()), bucket)
}

const fn list_of(class: (usize, usize)) -> u64 {
    FREE_LISTS + (class.0 * SECOND_LEVELS + class.1) as u64
}

impl Store {
    /// Scrubs about `budget` bytes, at most one round.
    ///
    /// # Errors
    /// At the first damage; the next call goes on behind it.
    pub(super) fn scrub(&mut self, budget: usize) -> Result<(), Damage> {
        self.verify_globals()?;
        let mut walk = self.scrubber;
        let outcome = self.walk(&mut walk, None, budget);
        match outcome {
            Ok(true) => walk = Walk::default(),
            Ok(false) => {}
            Err(_) => self.skip(&mut walk),
        }
        self.scrubber = walk;
        outcome.map(|_| ())
    }

    /// Goes on behind what is damaged.
    fn skip(&self, walk: &mut Walk) {
        match walk.part {
            Part::Header => (walk.part, walk.at) = (Part::Table, TABLE_AT),
            Part::Table => {
                let used = TABLE_AT + self.globals.buckets as usize * HEAD_SIZE;
                let size = if walk.at < used { HEAD_SIZE } else { PIECE };
                walk.at = (walk.at + size).min(self.globals.heap_start().at());
            }
            Part::Heap => match self.behind(walk.place) {
                Some(next) => (walk.place, walk.offset) = (next, 0),
                None => *walk = Walk::default(),
            },
        }
    }

    /// The block behind the one at `place`, which may have lost its header: then the next that knows its
    /// distance to it. None when there is none near by.
    fn behind(&self, place: Place) -> Option<Place> {
        let end = self.globals.heap_end();
        let next = match self.block(place) {
            Ok(block) => Some(place.after(block.granules())),
            Err(_) => (1..RESYNC_MAX)
                .map(|granules| (granules, place.after(granules)))
                .take_while(|(_, next)| *next < end)
                .find(|(granules, next)| {
                    let block = self.block(*next);
                    block.is_ok_and(|block| block.previous == *granules)
                })
                .map(|(_, next)| next),
        };
        next.filter(|next| *next < end)
    }

    /// What one round of the scrubber looks at, in the unit of its budget.
    pub(super) fn scrub_size(&self) -> u64 {
        self.image_size() as u64 + self.globals.keys * JUMPS_PER_ENTRY * JUMP as u64
    }

    /// Goes on with a proof by about `budget` bytes; true when everything is proved.
    ///
    /// # Errors
    /// When it is no state.
    pub(super) fn prove(&self, proof: &mut Proof, budget: usize) -> Result<bool, Damage> {
        if !proof.is_complete {
            let mut walk = proof.walk;
            let complete = self.walk(&mut walk, Some(proof), budget)?;
            (proof.walk, proof.is_complete) = (walk, complete);
            if !complete {
                return Ok(false);
            }
        }
        if proof.agrees_with(&self.globals) {
            Ok(true)
        } else {
            Err(Damage::UNKNOWN)
        }
    }

    /// Walks the whole state and compares everything with everything.
    ///
    /// # Errors
    /// At the first disagreement.
    pub(super) fn verify(&self) -> Result<(), Damage> {
        self.verify_globals()?;
        while !self.walk(&mut Walk::default(), None, usize::MAX)? {}
        self.prove(&mut Proof::default(), usize::MAX).map(|_| ())
    }

    /// Goes on by about `budget` bytes; true at the end.
    fn walk(
        &self,
        walk: &mut Walk,
        mut proof: Option<&mut Proof>,
        budget: usize,
    ) -> Result<bool, Damage> {
        let mut seen = 0_usize;
        while seen < budget {
            let proof = proof.as_deref_mut();
            seen = seen.saturating_add(match walk.part {
                Part::Header => {
                    let size = self.walk_header(proof)?;
                    (walk.part, walk.at) = (Part::Table, TABLE_AT);
                    size
                }
                Part::Table if walk.at < self.globals.heap_start().at() => {
                    self.walk_table(walk, proof)?
                }
                Part::Table => {
                    (walk.part, walk.place, walk.offset) =
                        (Part::Heap, self.globals.heap_start(), 0);
                    0
                }
                Part::Heap if walk.place < self.globals.heap_end() => {
                    self.walk_block(walk, proof, budget - seen)?
                }
                Part::Heap => return Ok(true),
            });
        }
        Ok(false)
    }

    /// What lies before the table.
    fn walk_header(&self, mut proof: Option<&mut Proof>) -> Result<usize, Damage> {
        self.verify_globals()?;
        let g = &self.globals;
        self.walk_zero(size_of::<Globals>(), FREE_HEADS_AT)?;
        self.walk_zero(HEADS_END, TABLE_AT)?;
        let slots = (WHEEL_LEVELS * WHEEL_SLOTS) as u32;
        let heap_is_empty = g.heap_start() == g.heap_end();
        let plausible = g.first >> FIRST_LEVELS == 0
            && g.draining <= u64::from(slots)
            && (!heap_is_empty || g.last_size == 0);
        if !plausible {
            return Err(Damage::UNKNOWN);
        }
        for first in 0..FIRST_LEVELS {
            let mut bits = 0;
            for second in 0..SECOND_LEVELS {
                let class = (first, second);
                let place = self.head(allocator::head_at(class))?;
                if place.is_none() {
                    continue;
                }
                bits |= 1 << second;
                let block = self.block(place)?;
                let begins = self.links(place)?.due_previous.is_none();
                if !block.is_free() || class_of(block.granules()) != class || !begins {
                    return Err(Damage::UNKNOWN);
                }
                if let Some(proof) = proof.as_deref_mut() {
                    proof.step(Place::NONE, place, list_of(class));
                }
            }
            if bits != g.second[first] || (bits != 0) != (g.first >> first & 1 == 1) {
                return Err(Damage::UNKNOWN);
            }
        }
        for slot in 1..=slots {
            let place = self.head(expiry::head_at(slot))?;
            let index = slot as usize - 1;
            let bit = g.wheel[index / WHEEL_SLOTS] >> (index % WHEEL_SLOTS) & 1;
            if (bit == 1) == place.is_none() {
                return Err(Damage::UNKNOWN);
            }
            if place.is_none() {
                continue;
            }
            let links = self.links(place)?;
            if links.due_slot != slot || !links.due_previous.is_none() {
                return Err(Damage::UNKNOWN);
            }
            if let Some(proof) = proof.as_deref_mut() {
                proof.step(Place::NONE, place, u64::from(slot));
            }
        }
        Ok(TABLE_AT)
    }

    /// Some buckets, or some of the room for more.
    fn walk_table(&self, walk: &mut Walk, proof: Option<&mut Proof>) -> Result<usize, Damage> {
        let index = ((walk.at - TABLE_AT) / HEAD_SIZE) as u64;
        if index >= self.globals.buckets {
            let end = self.globals.heap_start().at().min(walk.at + PIECE);
            self.walk_zero(walk.at, end)?;
            let size = end - walk.at;
            walk.at = end;
            return Ok(size);
        }
        let first = self.bucket(index)?;
        let mut size = HEAD_SIZE;
        if !first.is_none() {
            match proof {
                Some(proof) => {
                    proof.chains = proof.chains.wrapping_add(membership(first, index));
                }
                None if self.index_of(self.links(first)?.hash) != index => {
                    return Err(Damage::UNKNOWN);
                }
                None => size += JUMP,
            }
        }
        walk.at += HEAD_SIZE;
        Ok(size)
    }

    /// The block at `walk.place`, or a piece of it if it is free.
    fn walk_block(
        &self,
        walk: &mut Walk,
        proof: Option<&mut Proof>,
        budget: usize,
    ) -> Result<usize, Damage> {
        let place = walk.place;
        let block = self.block(place)?;
        let links = self.links(place)?;
        let size = block.granules() as usize * GRANULE;
        if walk.offset == 0 {
            self.compare_neighbours(place, block)?;
        }
        let mut seen = size;
        if block.is_free() {
            let from = walk.offset.max(LINKS_END);
            let to = size.min(from.saturating_add(budget.max(PIECE)));
            if from < to {
                self.walk_zero(place.at() + from, place.at() + to)?;
                seen = to - from;
            }
            if to < size {
                walk.offset = to;
                return Ok(seen);
            }
            self.walk_free(place, block, &links, proof)?;
        } else {
            seen += self.walk_entry(place, &links, size, proof)?;
        }
        (walk.place, walk.offset) = (place.after(block.granules()), 0);
        Ok(seen)
    }

    /// Neighbours know each other's sizes, and two free ones would have been merged.
    fn compare_neighbours(&self, place: Place, block: Block) -> Result<(), Damage> {
        let g = &self.globals;
        // Nobody can have written a size that leads beyond the numbers of places.
        let next = place
            .raw()
            .checked_add(block.granules())
            .map(Place::new)
            .filter(|next| *next <= g.heap_end())
            .ok_or(Damage::UNKNOWN)?;
        let is_first = place == g.heap_start();
        let fits = if next == g.heap_end() {
            // A free block there would have become wilderness.
            g.last_size == u64::from(block.granules()) && !block.is_free()
        } else {
            let after = self.block(next)?;
            after.previous == block.granules() && !(block.is_free() && after.is_free())
        };
        if fits
            && is_first == (block.previous == 0)
            && block.granules() as usize * GRANULE >= KEY_AT
        {
            Ok(())
        } else {
            Err(Damage::UNKNOWN)
        }
    }

    fn walk_free(
        &self,
        place: Place,
        block: Block,
        links: &Links,
        proof: Option<&mut Proof>,
    ) -> Result<(), Damage> {
        let class = class_of(block.granules());
        let (next, previous) = (links.next, links.due_previous);
        let mut fits = links.due_next.is_none() && links.due_slot == 0 && links.hash == 0;
        if let Some(proof) = proof {
            if !next.is_none() {
                proof.step(place, next, list_of(class));
            }
            proof.step_back(previous, place, list_of(class));
        } else {
            fits &= next.is_none() || self.links(next)?.due_previous == place;
            fits &= if previous.is_none() {
                self.head(allocator::head_at(class))? == place
            } else {
                self.links(previous)?.next == place
            };
        }
        if fits { Ok(()) } else { Err(Damage::UNKNOWN) }
    }

    /// Returns what was looked at besides the block.
    fn walk_entry(
        &self,
        place: Place,
        links: &Links,
        size: usize,
        proof: Option<&mut Proof>,
    ) -> Result<usize, Damage> {
        let entry = self.entry(place)?;
        let end = KEY_AT + entry.content.len();
        self.walk_zero(place.at() + end, place.at() + size)?;
        let hash = digest::of_key(entry.key, self.globals.seed);
        let is_scheduled = links.due_slot != 0;
        let has_links = is_scheduled || (links.due_next.is_none() && links.due_previous.is_none());
        if links.hash != hash || is_scheduled != (entry.body.deadline != 0) || !has_links {
            return Err(Damage::UNKNOWN);
        }
        match proof {
            Some(proof) => {
                self.add_entry(place, links, &entry, proof);
                proof.used += (size / GRANULE) as u64;
                Ok(0)
            }
            None => self.compare_lists(place, links),
        }
    }

    fn add_entry(&self, place: Place, links: &Links, entry: &Entry<'_>, proof: &mut Proof) {
        proof.sum = proof.sum.wrapping_add(entry.number());
        proof.keys += 1;
        proof.version = proof.version.max(entry.body.version);
        let bucket = self.index_of(links.hash);
        proof.chains = proof.chains.wrapping_sub(membership(place, bucket));
        if !links.next.is_none() {
            proof.chains = proof.chains.wrapping_add(membership(links.next, bucket));
        }
        if links.due_slot != 0 {
            let slot = u64::from(links.due_slot);
            proof.expiring += 1;
            if !links.due_next.is_none() {
                proof.step(place, links.due_next, slot);
            }
            proof.step_back(links.due_previous, place, slot);
        }
    }

    /// An entry is reached from its bucket, and its neighbours in the wheel know it.
    fn compare_lists(&self, place: Place, links: &Links) -> Result<usize, Damage> {
        let mut jumps = 1;
        let mut at = self.bucket(self.index_of(links.hash))?;
        while at != place {
            jumps += 1;
            // The chain's end has no links; a chain longer than that is a ring.
            if jumps as u64 > self.globals.keys {
                return Err(Damage::UNKNOWN);
            }
            at = self.links(at)?.next;
        }
        let slot = links.due_slot;
        if slot != 0 {
            let (next, previous) = (links.due_next, links.due_previous);
            let mut fits = slot as usize <= WHEEL_LEVELS * WHEEL_SLOTS;
            if !next.is_none() {
                let after = self.links(next)?;
                fits &= after.due_previous == place && after.due_slot == slot;
                jumps += 1;
            }
            fits = fits
                && if previous.is_none() {
                    self.head(expiry::head_at(slot))? == place
                } else {
                    let before = self.links(previous)?;
                    before.due_next == place && before.due_slot == slot
                };
            jumps += 1;
            if !fits {
                return Err(Damage::UNKNOWN);
            }
        }
        Ok(jumps * JUMP)
    }

    /// Nothing may be there.
    fn walk_zero(&self, from: usize, to: usize) -> Result<(), Damage> {
        if from >= to || self.arena.is_zero(from, to - from) {
            Ok(())
        } else {
            Err(Damage::within(from, to - from))
        }
    }
}

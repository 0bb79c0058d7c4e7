//! The entries: reading them (always verified) and the three ways to change them.
//!
//! A [`Store`] is the arena with its table, allocator and wheel. The rooms beside this file hold one
//! of these each, as further `impl Store` blocks; here they are put together, and here the digest
//! follows every change.

use super::allocator::granules_of;
use super::arena::Arena;
use super::damage::{Damage, Denied};
use super::digest;
use super::layout::{
    BODY_AT, Body, CHECKSUM_AT, GRANULE, Globals, HEAD_SIZE, Head, KEY_AT, LINKS_AT, Links, Place,
    TABLE_AT,
};
use super::walk::Walk;
use bytemuck::Zeroable;
use std::cell::Cell;
use vsr_types::{Digest, checksum};

/// Where a key is, or would be: everything a change needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The entry, or none.
    pub(super) place: Place,
    /// The entry before it in its bucket, or none when it is the first.
    pub(super) before: Place,
    pub(super) hash: u32,
}

/// A verified entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) body: Body,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// The key directly followed by the value.
    pub(super) content: &'a [u8],
}

/// A new value, said as what changes: `keep` bytes of the old one stay, `data` is written at `at`,
/// and what lies between is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edit<'a> {
    pub(super) keep: usize,
    pub(super) at: usize,
    pub(super) data: &'a [u8],
    pub(super) size: usize,
}

impl<'a> Edit<'a> {
    /// A whole new value.
    pub(super) const fn whole(data: &'a [u8]) -> Self {
        Self {
            keep: 0,
            at: 0,
            data,
            size: data.len(),
        }
    }
}

/// See the module.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Store {
    pub(super) arena: Arena,
    pub(super) globals: Globals,
    /// What the operation that is executed has done so far; no part of the state.
    pub(super) work: Cell<u64>,
    /// What was found to be damaged first, until an image is installed: no part of the state.
    pub(super) damage: Cell<Option<Damage>>,
    /// Where the scrubber is: no part of the state either, because replicas need not scrub in step.
    pub(super) scrubber: Walk,
    /// The furthest that the heap has ever reached, in granules.
    pub(super) furthest: u64,
}

impl Store {
    pub(super) fn new(size: usize) -> Self {
        let mut store = Self {
            arena: Arena::new(size),
            globals: Globals::empty(size),
            work: Cell::new(0),
            damage: Cell::new(None),
            scrubber: Walk::default(),
            furthest: 0,
        };
        store.sync();
        store
    }

    /// Touches all memory of a fresh store.
    pub(super) fn prefault(&mut self) {
        assert!(
            self.globals == Globals::empty(self.arena.size()),
            "memory is touched before anything is in it"
        );
        self.arena.touch();
        self.sync();
    }

    /// Writes the globals' second copy.
    pub(super) fn sync(&mut self) {
        self.arena.write(0, &self.globals);
    }

    /// Compares the two copies of the globals.
    #[inline]
    pub(super) fn verify_globals(&self) -> Result<(), Damage> {
        let size = size_of::<Globals>();
        if self.arena.bytes(0, size) == bytemuck::bytes_of(&self.globals) {
            Ok(())
        } else {
            Err(Damage::within(0, size))
        }
    }

    /// Nothing is answered from here on; what was found first is what is told.
    pub(super) fn note(&self, damage: Damage) {
        self.damage.set(self.damage.get().or(Some(damage)));
    }

    /// The block at `gone` is now part of the one at `into`.
    #[inline]
    pub(super) fn boundary_moves(&mut self, gone: Place, into: Place) {
        self.scrubber.boundary_moves(gone, into);
    }

    /// No block begins at `end` or behind it any more: the image ends there.
    #[inline]
    pub(super) fn heap_ends(&mut self, end: Place) {
        self.arena.mark_changed(end.at());
        self.scrubber.heap_ends(end);
    }

    /// Everything back to empty, the version counter and the time excepted: versions never come
    /// again, and time does not go back. Costs a write of the buckets in use.
    pub(super) fn clear(&mut self) {
        let used = self.globals.buckets as usize * HEAD_SIZE;
        self.charge(self.globals.buckets);
        let kept = Globals {
            seed: self.globals.seed,
            version: self.globals.version,
            elapsed: self.globals.elapsed,
            ..Globals::empty(self.globals.limit as usize)
        };
        self.globals = kept;
        self.arena.zero(0, TABLE_AT + used);
        self.heap_ends(self.globals.heap_end());
        self.sync();
    }

    /// The digest of the whole state.
    pub(super) fn digest(&self) -> Digest {
        let g = &self.globals;
        let counters = [
            g.keys, g.buckets, g.expiring, g.version, g.used, g.heap_end, g.limit, g.seed,
            g.elapsed, g.draining,
        ];
        Digest::new(digest::of_state(g.sum(), &counters))
    }

    /// The first of the list whose head lies at `at`.
    #[inline]
    pub(super) fn head(&self, at: usize) -> Result<Place, Damage> {
        let head: Head = self.arena.read(at);
        if head.is_sound() {
            Ok(head.first)
        } else {
            Err(Damage::within(at, HEAD_SIZE))
        }
    }

    /// Writes them with their check.
    #[inline]
    pub(super) fn set_links(&mut self, place: Place, links: Links) {
        self.arena.write(place.at() + LINKS_AT, &links.sealed());
    }

    /// The links of the block at `place`, verified.
    #[inline]
    pub(super) fn links(&self, place: Place) -> Result<Links, Damage> {
        let inside = place >= self.globals.heap_start()
            && place < self.globals.heap_end()
            && place.at() + KEY_AT <= self.arena.size();
        if !inside {
            return Err(Damage::UNKNOWN);
        }
        let links: Links = self.arena.read(place.at() + LINKS_AT);
        if links.is_sound() {
            Ok(links)
        } else {
            Err(Damage::within(place.at() + LINKS_AT, size_of::<Links>()))
        }
    }

    /// The entry at `place`, verified.
    #[inline]
    pub(super) fn entry(&self, place: Place) -> Result<Entry<'_>, Damage> {
        let block = self.block(place)?;
        let size = block.granules() as usize * GRANULE;
        if block.is_free() || place.at() + size > self.arena.size() || size < KEY_AT {
            return Err(Damage::UNKNOWN);
        }
        self.entry_of(place, size)
            .ok_or_else(|| Damage::within(place.at(), size))
    }

    /// The entry in the block of `size` bytes at `place`, unless its checksum says otherwise.
    #[inline]
    fn entry_of(&self, place: Place, size: usize) -> Option<Entry<'_>> {
        let body: Body = self.arena.read(place.at() + BODY_AT);
        let content_size = body.key_size as usize + body.value_size as usize;
        if content_size > size - KEY_AT {
            return None;
        }
        self.charge_entry(content_size);
        let covered = self
            .arena
            .bytes(place.at() + BODY_AT, size_of::<Body>() + content_size);
        let expected: u32 = self.arena.read(place.at() + CHECKSUM_AT);
        if seal(place, covered) != expected {
            return None;
        }
        let content = &covered[size_of::<Body>()..];
        let (key, value) = content.split_at(body.key_size as usize);
        Some(Entry {
            body,
            key,
            value,
            content,
        })
    }

    /// Stores a value under a key, wherever the key was found.
    ///
    /// # Errors
    /// [`Denied`]; when memory is out, nothing has changed.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        found: &Found,
        edit: &Edit<'_>,
        deadline: u64,
    ) -> Result<(), Denied> {
        let size = KEY_AT + key.len() + edit.size;
        let granules = granules_of(size);
        if !found.place.is_none() {
            let has = self.block(found.place)?.granules();
            // In place unless it would waste more than a quarter of the block.
            if granules <= has && has - granules <= granules / 4 + 4 {
                return Ok(self.rewrite(found, edit, deadline)?);
            }
        }
        let place = match self.allocate(granules) {
            Ok(place) => place,
            // A smaller value fits where the larger one was.
            Err(Denied::OutOfMemory)
                if !found.place.is_none() && granules <= self.block(found.place)?.granules() =>
            {
                return Ok(self.rewrite(found, edit, deadline)?);
            }
            Err(denied) => return Err(denied),
        };
        let value_at = place.at() + KEY_AT + key.len();
        self.arena
            .bytes_mut(place.at() + KEY_AT, key.len())
            .copy_from_slice(key);
        if edit.keep > 0 {
            let old = self.entry(found.place)?.body;
            let from = found.place.at() + KEY_AT + old.key_size as usize;
            self.arena.copy(from, value_at, edit.keep);
        }
        self.apply_edit(value_at, edit);
        let body = self.new_body(key.len(), edit.size, deadline);
        Ok(self.replace(place, body, found)?)
    }

    /// A copy of the entry at `source` under another key, in a block of its own that no bucket
    /// knows yet; finish it with [`Self::adopt`] or [`Self::discard`].
    pub(super) fn prepare_copy(&mut self, key: &[u8], source: Place) -> Result<Place, Denied> {
        let old = self.entry(source)?.body;
        let size = old.value_size as usize;
        let place = self.allocate(granules_of(KEY_AT + key.len() + size))?;
        let value_at = place.at() + KEY_AT + key.len();
        self.arena
            .bytes_mut(place.at() + KEY_AT, key.len())
            .copy_from_slice(key);
        self.arena
            .copy(source.at() + KEY_AT + old.key_size as usize, value_at, size);
        let body = self.new_body(key.len(), size, old.deadline);
        self.arena.write(place.at() + BODY_AT, &body);
        Ok(place)
    }

    /// A new entry in a block of its own that no bucket knows yet, chained in front of `rest`.
    pub(super) fn prepare(
        &mut self,
        key: &[u8],
        value: &[u8],
        rest: Place,
    ) -> Result<Place, Denied> {
        let size = KEY_AT + key.len() + value.len();
        let place = self.allocate(granules_of(size))?;
        let content = self
            .arena
            .bytes_mut(place.at() + KEY_AT, key.len() + value.len());
        content[..key.len()].copy_from_slice(key);
        content[key.len()..].copy_from_slice(value);
        let body = Body {
            version: 0,
            deadline: 0,
            key_size: key.len() as u32,
            value_size: value.len() as u32,
        };
        self.arena.write(place.at() + BODY_AT, &body);
        let links = Links {
            next: rest,
            ..Links::zeroed()
        };
        self.set_links(place, links);
        Ok(place)
    }

    /// Puts a prepared entry into the table, in place of the one with its key.
    pub(super) fn adopt(&mut self, key: &[u8], place: Place) -> Result<(), Damage> {
        let mut body: Body = self.arena.read(place.at() + BODY_AT);
        self.globals.version += 1;
        body.version = self.globals.version;
        let found = self.find(key)?;
        self.replace(place, body, &found)
    }

    /// Frees a prepared entry.
    pub(super) fn discard(&mut self, place: Place) -> Result<(), Damage> {
        self.free(place)
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, found: &Found) -> Result<(), Damage> {
        let place = found.place;
        self.subtract(place)?;
        let links = self.links(place)?;
        if links.due_slot != 0 {
            self.cancel(place)?;
        }
        self.unlink(found, links.next)?;
        self.globals.keys -= 1;
        self.free(place)
    }

    /// Gives an entry another deadline, or none (zero).
    pub(super) fn set_deadline(&mut self, place: Place, deadline: u64) -> Result<(), Damage> {
        self.subtract(place)?;
        let mut body: Body = self.arena.read(place.at() + BODY_AT);
        self.globals.version += 1;
        body.version = self.globals.version;
        self.reschedule(place, deadline)?;
        body.deadline = deadline;
        self.seal_entry(place, body);
        Ok(())
    }

    /// Makes the block at `place`, its key and value written, the entry for its key.
    fn replace(&mut self, place: Place, body: Body, found: &Found) -> Result<(), Damage> {
        if found.place.is_none() {
            self.link(place, found.hash)?;
        } else {
            self.subtract(found.place)?;
            let links = self.links(found.place)?;
            if links.due_slot != 0 {
                self.cancel(found.place)?;
            }
            self.relink(place, found, links.next)?;
            self.free(found.place)?;
        }
        if body.deadline != 0 {
            self.schedule(place, body.deadline)?;
        }
        self.seal_entry(place, body);
        Ok(())
    }

    fn rewrite(&mut self, found: &Found, edit: &Edit<'_>, deadline: u64) -> Result<(), Damage> {
        self.subtract(found.place)?;
        let old: Body = self.arena.read(found.place.at() + BODY_AT);
        let value_at = found.place.at() + KEY_AT + old.key_size as usize;
        self.apply_edit(value_at, edit);
        // What follows an entry in its block is zero.
        let rest = (old.value_size as usize).saturating_sub(edit.size);
        self.arena.zero(value_at + edit.size, rest);
        if old.deadline != deadline {
            self.reschedule(found.place, deadline)?;
        }
        let body = self.new_body(old.key_size as usize, edit.size, deadline);
        self.seal_entry(found.place, body);
        Ok(())
    }

    fn apply_edit(&mut self, value_at: usize, edit: &Edit<'_>) {
        let value = self.arena.bytes_mut(value_at, edit.size);
        if edit.keep < edit.at {
            value[edit.keep..edit.at].fill(0);
        }
        value[edit.at..edit.at + edit.data.len()].copy_from_slice(edit.data);
    }

    fn new_body(&mut self, key_size: usize, value_size: usize, deadline: u64) -> Body {
        self.globals.version += 1;
        Body {
            version: self.globals.version,
            deadline,
            key_size: key_size as u32,
            value_size: value_size as u32,
        }
    }

    /// Writes the body and the checksum of an entry and adds it to the digest.
    fn seal_entry(&mut self, place: Place, body: Body) {
        let key_size = body.key_size as usize;
        let size = key_size + body.value_size as usize;
        self.charge_entry(size);
        self.arena.write(place.at() + BODY_AT, &body);
        let covered = self
            .arena
            .bytes(place.at() + BODY_AT, size_of::<Body>() + size);
        let sum = seal(place, covered);
        let content = &covered[size_of::<Body>()..];
        let number = digest::of_entry(content, key_size, body.deadline, body.version);
        self.arena.write(place.at() + CHECKSUM_AT, &sum);
        self.globals
            .set_sum(self.globals.sum().wrapping_add(number));
    }

    /// Takes a (verified) entry out of the digest.
    fn subtract(&mut self, place: Place) -> Result<(), Damage> {
        let number = self.entry(place)?.number();
        self.globals
            .set_sum(self.globals.sum().wrapping_sub(number));
        Ok(())
    }
}

impl Entry<'_> {
    /// What it adds to the digest.
    pub(super) fn number(&self) -> u128 {
        digest::of_entry(
            self.content,
            self.key.len(),
            self.body.deadline,
            self.body.version,
        )
    }
}

/// An entry's checksum: of its bytes, bound to its place, so that a link that points to where an
/// entry used to be is noticed.
#[inline]
fn seal(place: Place, covered: &[u8]) -> u32 {
    checksum(covered).raw() ^ place.raw().wrapping_mul(0x9E37_79B1)
}

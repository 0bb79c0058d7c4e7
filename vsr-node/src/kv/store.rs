//! The entries: reading them (always verified) and the three ways to change them.
//!
//! A [`Store`] is the arena with its table, allocator and wheel. The rooms beside this file hold one
//! of these each, as further `impl Store` blocks; here they are put together, and here the digest
//! follows every change.

use super::allocator::granules_of;
use super::arena::Arena;
use super::digest;
use super::layout::{
    BODY_AT, BUCKET_SIZE, Body, CHECKSUM_AT, Globals, KEY_AT, LINKS_AT, Links, Place, TABLE_AT,
};
use bytemuck::Zeroable;
use std::cell::Cell;
use vsr_types::{Digest, checksum};

/// A place in the arena, in bytes, where something is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage(pub(super) usize);

/// The arena has no block for it; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfMemory;

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
pub(super) struct Store {
    pub(super) arena: Arena,
    pub(super) globals: Globals,
    /// What the operation that is executed has done so far; no part of the state.
    pub(super) work: Cell<u64>,
}

impl Store {
    pub(super) fn new(size: usize) -> Self {
        let mut store = Self {
            arena: Arena::new(size),
            globals: Globals::empty(size),
            work: Cell::new(0),
        };
        store.sync();
        store
    }

    /// Writes the globals' second copy.
    pub(super) fn sync(&mut self) {
        self.arena.write(0, &self.globals);
    }

    /// Compares the two copies of the globals.
    pub(super) fn globals_are_sound(&self) -> bool {
        self.arena.bytes(0, size_of::<Globals>()) == bytemuck::bytes_of(&self.globals)
    }

    /// Everything back to empty, the version counter and the time excepted: versions never come
    /// again, and time does not go back. Costs a write of the buckets in use.
    pub(super) fn clear(&mut self) {
        let used = self.globals.buckets as usize * BUCKET_SIZE;
        self.charge(self.globals.buckets);
        let kept = Globals {
            seed: self.globals.seed,
            version: self.globals.version,
            elapsed: self.globals.elapsed,
            ..Globals::empty(self.globals.limit as usize)
        };
        self.globals = kept;
        self.arena.bytes_mut(0, TABLE_AT + used).fill(0);
        self.sync();
    }

    /// Empty as at the very beginning, whatever the arena holds.
    pub(super) fn reset(&mut self) {
        self.globals = Globals::empty(self.arena.size());
        let start = self.globals.heap_start().at();
        self.arena.bytes_mut(0, start).fill(0);
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

    #[inline]
    pub(super) fn links(&self, place: Place) -> Links {
        self.try_links(place)
            .expect("state is corrupt: a block's links fail their check")
    }

    /// Writes them with their check.
    #[inline]
    pub(super) fn set_links(&mut self, place: Place, links: Links) {
        self.arena.write(place.at() + LINKS_AT, &links.sealed());
    }

    #[inline]
    pub(super) fn try_links(&self, place: Place) -> Result<Links, Damage> {
        let inside = place >= self.globals.heap_start()
            && place < self.globals.heap_end()
            && place.at() + KEY_AT <= self.arena.size();
        if !inside {
            return Err(Damage(0));
        }
        let links: Links = self.arena.read(place.at() + LINKS_AT);
        if links.is_sound() {
            Ok(links)
        } else {
            Err(Damage(place.at()))
        }
    }

    /// The entry at `place`, verified.
    #[inline]
    pub(super) fn entry(&self, place: Place) -> Entry<'_> {
        self.try_entry(place)
            .expect("state is corrupt: an entry fails its checksum")
    }

    pub(super) fn try_entry(&self, place: Place) -> Result<Entry<'_>, Damage> {
        let damage = Damage(place.at());
        let block = self.try_block(place)?;
        let body: Body = self.arena.read(place.at() + BODY_AT);
        let size = body.key_size as usize + body.value_size as usize;
        let room = (block.granules() as usize * super::layout::GRANULE).checked_sub(KEY_AT);
        let end = place.at() + block.granules() as usize * super::layout::GRANULE;
        if block.is_free() || room.is_none_or(|room| size > room) || end > self.arena.size() {
            return Err(damage);
        }
        self.charge_entry(size);
        let covered = self
            .arena
            .bytes(place.at() + BODY_AT, size_of::<Body>() + size);
        let expected: u32 = self.arena.read(place.at() + CHECKSUM_AT);
        if seal(place, covered) != expected {
            return Err(damage);
        }
        let content = &covered[size_of::<Body>()..];
        let (key, value) = content.split_at(body.key_size as usize);
        Ok(Entry {
            body,
            key,
            value,
            content,
        })
    }

    /// Stores a value under a key, wherever the key was found.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing has changed.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        found: &Found,
        edit: &Edit<'_>,
        deadline: u64,
    ) -> Result<(), OutOfMemory> {
        let size = KEY_AT + key.len() + edit.size;
        let granules = granules_of(size);
        if !found.place.is_none() {
            let has = self.block(found.place).granules();
            // In place unless it would waste more than a quarter of the block.
            if granules <= has && has - granules <= granules / 4 + 4 {
                self.rewrite(found, edit, deadline);
                return Ok(());
            }
        }
        let Some(place) = self.allocate(granules) else {
            // A smaller value fits where the larger one was.
            if !found.place.is_none() && granules <= self.block(found.place).granules() {
                self.rewrite(found, edit, deadline);
                return Ok(());
            }
            return Err(OutOfMemory);
        };
        let value_at = place.at() + KEY_AT + key.len();
        self.arena
            .bytes_mut(place.at() + KEY_AT, key.len())
            .copy_from_slice(key);
        if edit.keep > 0 {
            let old = self.entry(found.place).body;
            let from = found.place.at() + KEY_AT + old.key_size as usize;
            self.arena.copy(from, value_at, edit.keep);
        }
        self.apply_edit(value_at, edit);
        let body = self.new_body(key.len(), edit.size, deadline);
        self.replace(place, body, found);
        Ok(())
    }

    /// A copy of the entry at `source` under another key, in a block of its own that no bucket
    /// knows yet; finish it with [`Self::adopt`] or [`Self::discard`].
    pub(super) fn prepare_copy(&mut self, key: &[u8], source: Place) -> Result<Place, OutOfMemory> {
        let old = self.entry(source).body;
        let size = old.value_size as usize;
        let place = self
            .allocate(granules_of(KEY_AT + key.len() + size))
            .ok_or(OutOfMemory)?;
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
    ) -> Result<Place, OutOfMemory> {
        let size = KEY_AT + key.len() + value.len();
        let place = self.allocate(granules_of(size)).ok_or(OutOfMemory)?;
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
    pub(super) fn adopt(&mut self, key: &[u8], place: Place) {
        let mut body: Body = self.arena.read(place.at() + BODY_AT);
        self.globals.version += 1;
        body.version = self.globals.version;
        let found = self.find(key);
        self.replace(place, body, &found);
    }

    /// Frees a prepared entry.
    pub(super) fn discard(&mut self, place: Place) {
        self.free(place);
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, found: &Found) {
        let place = found.place;
        self.subtract(place);
        let links = self.links(place);
        if links.due_slot != 0 {
            self.cancel(place);
        }
        self.unlink(found, links.next);
        self.globals.keys -= 1;
        self.free(place);
    }

    /// Gives an entry another deadline, or none (zero).
    pub(super) fn set_deadline(&mut self, place: Place, deadline: u64) {
        self.subtract(place);
        let mut body: Body = self.arena.read(place.at() + BODY_AT);
        self.globals.version += 1;
        body.version = self.globals.version;
        self.reschedule(place, deadline);
        body.deadline = deadline;
        self.seal_entry(place, body);
    }

    /// Makes the block at `place`, its key and value written, the entry for its key.
    fn replace(&mut self, place: Place, body: Body, found: &Found) {
        if found.place.is_none() {
            self.link(place, found.hash);
        } else {
            self.subtract(found.place);
            let links = self.links(found.place);
            if links.due_slot != 0 {
                self.cancel(found.place);
            }
            self.relink(place, found, links.next);
            self.free(found.place);
        }
        if body.deadline != 0 {
            self.schedule(place, body.deadline);
        }
        self.seal_entry(place, body);
    }

    fn rewrite(&mut self, found: &Found, edit: &Edit<'_>, deadline: u64) {
        self.subtract(found.place);
        let old: Body = self.arena.read(found.place.at() + BODY_AT);
        let value_at = found.place.at() + KEY_AT + old.key_size as usize;
        self.apply_edit(value_at, edit);
        if old.deadline != deadline {
            self.reschedule(found.place, deadline);
        }
        let body = self.new_body(old.key_size as usize, edit.size, deadline);
        self.seal_entry(found.place, body);
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
    fn subtract(&mut self, place: Place) {
        let number = self.entry(place).number();
        self.globals
            .set_sum(self.globals.sum().wrapping_sub(number));
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

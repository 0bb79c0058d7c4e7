//! The hash table: buckets of entries chained by their links.
//!
//! The number of buckets follows from the memory and never changes: no growing, so no pause and no
//! rehashing, and SCAN's cursor is the number of the next bucket, the same on all replicas and valid
//! whatever happens in between. Keys that stay are returned exactly once.
//!
//! The seed is drawn from the first operation's client and time: equal everywhere, and not known to
//! somebody who prepares keys that all fall into one bucket.

use super::digest;
use super::layout::{BODY_AT, BUCKET_SIZE, Body, Bucket, KEY_AT, Links, Place, TABLE_AT};
use super::store::{Damage, Entry, Found, Store};
use bytemuck::Zeroable;

impl Store {
    /// Draws the seed; called with the first operation.
    pub(super) fn seed(&mut self, client: u128, time: u64) {
        let seed = digest::mix(client as u64 ^ time, (client >> 64) as u64);
        self.globals.seed = seed.max(1);
    }

    const fn bucket_at(&self, hash: u64) -> usize {
        TABLE_AT + (hash & (self.globals.buckets - 1)) as usize * BUCKET_SIZE
    }

    /// The first entry of bucket `index`.
    ///
    /// # Errors
    /// When the bucket fails its check.
    pub(super) fn try_bucket(&self, index: u64) -> Result<Place, Damage> {
        let at = TABLE_AT + index as usize * BUCKET_SIZE;
        let bucket: Bucket = self.arena.read(at);
        if bucket.is_sound() {
            Ok(bucket.first)
        } else {
            Err(Damage(at))
        }
    }

    /// The first entry of bucket `index`.
    pub(super) fn bucket(&self, index: u64) -> Place {
        self.try_bucket(index)
            .expect("state is corrupt: a bucket of the table fails its check")
    }

    /// Whether an entry with this hash belongs into bucket `index`: low bits choose the bucket, and
    /// they are not kept, so the key is hashed again.
    pub(super) fn belongs(&self, entry: &Entry<'_>, links: &Links, index: u64) -> bool {
        let hash = digest::of_key(entry.key, self.globals.seed);
        hash & (self.globals.buckets - 1) == index && links.hash == (hash >> 32) as u32
    }

    /// Looks for a key.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Found {
        let hash = digest::of_key(key, self.globals.seed);
        let mut found = Found {
            place: self.bucket(hash & (self.globals.buckets - 1)),
            before: Place::NONE,
            hash,
        };
        while !found.place.is_none() {
            let links = self.links(found.place);
            if links.hash == (hash >> 32) as u32 && self.has_key(found.place, key) {
                return found;
            }
            found.before = found.place;
            found.place = links.next;
        }
        found
    }

    fn has_key(&self, place: Place, key: &[u8]) -> bool {
        let body: Body = self.arena.read(place.at() + BODY_AT);
        let same = body.key_size as usize == key.len()
            && self.arena.bytes(place.at() + KEY_AT, key.len()) == key;
        // Another key with the same 32 bits of hash is rarer than a flipped bit: look closely.
        same || self.entry(place).key == key
    }

    /// The entry for a key, verified, unless it is absent or gone at `now`.
    #[inline]
    pub(super) fn get(&self, key: &[u8], now: u64) -> Option<Entry<'_>> {
        let found = self.find(key);
        if found.place.is_none() {
            return None;
        }
        let entry = self.entry(found.place);
        entry.is_live(now).then_some(entry)
    }

    /// Puts an entry that is in no bucket at the front of its own.
    pub(super) fn link(&mut self, place: Place, hash: u64) {
        let links = Links {
            next: self.bucket(hash & (self.globals.buckets - 1)),
            hash: (hash >> 32) as u32,
            ..Links::zeroed()
        };
        self.set_links(place, links);
        self.arena.write(self.bucket_at(hash), &Bucket::new(place));
    }

    /// Puts an entry that is in no bucket where `found` is.
    pub(super) fn relink(&mut self, place: Place, found: &Found, next: Place) {
        let links = Links {
            next,
            hash: (found.hash >> 32) as u32,
            ..Links::zeroed()
        };
        self.set_links(place, links);
        self.unlink(found, place);
    }

    /// Lets what points to `found` point to `next`.
    pub(super) fn unlink(&mut self, found: &Found, next: Place) {
        if found.before.is_none() {
            self.arena
                .write(self.bucket_at(found.hash), &Bucket::new(next));
            return;
        }
        let before = Links {
            next,
            ..self.links(found.before)
        };
        self.set_links(found.before, before);
    }

    /// Finds the entry at `place`, known to be in the table.
    pub(super) fn locate(&self, place: Place) -> Found {
        let hash = digest::of_key(self.entry(place).key, self.globals.seed);
        let mut found = Found {
            place: self.bucket(hash & (self.globals.buckets - 1)),
            before: Place::NONE,
            hash,
        };
        while found.place != place {
            assert!(
                !found.place.is_none(),
                "state is corrupt: an entry is not in the bucket of its key"
            );
            found.before = found.place;
            found.place = self.links(found.place).next;
        }
        found
    }
}

impl Entry<'_> {
    /// Whether it still counts at `now`, in milliseconds: a key is gone exactly when its deadline is
    /// at or before the time.
    #[inline]
    pub(super) const fn is_live(&self, now: u64) -> bool {
        self.body.deadline == 0 || self.body.deadline > now
    }
}

//! The hash table: buckets of entries chained by their links, growing one bucket at a time.
//!
//! Linear hashing (Litwin 1980): with n buckets, 2^l <= n < 2^(l+1), a hash belongs to the bucket of
//! its low l + 1 bits, or of its low l bits where that bucket does not exist yet. Each key that makes
//! more keys than buckets splits one bucket in two, in a fixed order: no pause, and a table as small
//! as its keys allow, which keeps the buckets of a small data set in the cache. The room for the
//! buckets is set aside from the start; they never become fewer, except when everything is removed.
//!
//! SCAN walks the hashes in the order of their *reversed* bits. In that order each bucket is one
//! interval, and splitting it cuts the interval in two; a cursor is a place in this order, so it
//! means the same on all replicas and whatever the table has become in between. A key that stays is
//! returned exactly once.
//!
//! The seed is drawn from the first operation's client and time: equal everywhere, and not known to
//! somebody who prepares keys that all fall into one bucket.

use super::damage::Damage;
use super::digest;
use super::layout::{BODY_AT, Body, HEAD_SIZE, Head, KEY_AT, Links, Place, TABLE_AT};
use super::store::{Entry, Found, Store};
use super::work::FIND;
use bytemuck::Zeroable;

impl Store {
    /// Draws the seed; called with the first operation.
    pub(super) fn seed(&mut self, client: u128, time: u64) {
        let seed = digest::mix(client as u64 ^ time, (client >> 64) as u64);
        self.globals.seed = seed.max(1);
    }

    /// The bucket of a hash.
    #[inline]
    pub(super) const fn index_of(&self, hash: u32) -> u64 {
        let buckets = self.globals.buckets;
        let mask = (2 << buckets.ilog2()) - 1;
        let index = hash as u64 & mask;
        if index < buckets {
            index
        } else {
            index & (mask >> 1)
        }
    }

    const fn bucket_at(&self, hash: u32) -> usize {
        bucket_at(self.index_of(hash))
    }

    /// The interval of reversed hashes that the bucket of the reversed hash `at` holds: the bucket,
    /// and where the next interval begins (2^32 after the last).
    pub(super) fn interval(&self, at: u32) -> (u64, u64) {
        let index = self.index_of(at.reverse_bits());
        let level = self.globals.buckets.ilog2();
        let half = 1 << level;
        // Buckets already split in this round, and those that came of it, are told by a bit more.
        let depth = if index >= half || index + half < self.globals.buckets {
            level + 1
        } else {
            level
        };
        let size = 1_u64 << (32 - depth);
        (index, (u64::from(at) & !(size - 1)) + size)
    }

    /// Adds a bucket: the next one in turn is split.
    fn split_bucket(&mut self) -> Result<(), Damage> {
        let new = self.globals.buckets;
        let old = new - (1 << new.ilog2());
        let mut place = self.bucket(old)?;
        self.globals.buckets += 1;
        let (mut stays, mut moves) = (Place::NONE, Place::NONE);
        while !place.is_none() {
            let links = self.links(place)?;
            let chain = if self.index_of(links.hash) == new {
                &mut moves
            } else {
                &mut stays
            };
            let changed = Links {
                next: *chain,
                ..links
            };
            *chain = place;
            self.set_links(place, changed);
            place = links.next;
        }
        for (index, first) in [(old, stays), (new, moves)] {
            self.arena.write(bucket_at(index), &Head::new(first));
        }
        Ok(())
    }

    /// The first entry of bucket `index`.
    #[inline]
    pub(super) fn bucket(&self, index: u64) -> Result<Place, Damage> {
        self.head(bucket_at(index))
    }

    /// The first entry of a key's bucket, as it stands there: for touching it, not for believing it.
    #[inline]
    pub(super) fn peek_bucket(&self, key: &[u8]) -> Place {
        let hash = digest::of_key(key, self.globals.seed);
        let head: Head = self.arena.read(self.bucket_at(hash));
        head.first
    }

    /// Looks for a key.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Result<Found, Damage> {
        self.charge(FIND);
        let hash = digest::of_key(key, self.globals.seed);
        let mut found = Found {
            place: self.bucket(self.index_of(hash))?,
            before: Place::NONE,
            hash,
        };
        while !found.place.is_none() {
            let links = self.links(found.place)?;
            if links.hash == hash && self.has_key(found.place, key)? {
                break;
            }
            found.before = found.place;
            found.place = links.next;
        }
        Ok(found)
    }

    /// The size of the value under a key, also of one that is due, as it stands there: not verified.
    pub(super) fn peek_size(&self, key: &[u8]) -> Result<usize, Damage> {
        let place = self.find(key)?.place;
        if place.is_none() {
            return Ok(0);
        }
        let body: Body = self.arena.read(place.at() + BODY_AT);
        Ok(body.value_size as usize)
    }

    #[inline]
    fn has_key(&self, place: Place, key: &[u8]) -> Result<bool, Damage> {
        let body: Body = self.arena.read(place.at() + BODY_AT);
        let same = body.key_size as usize == key.len()
            && self.arena.get(place.at() + KEY_AT, key.len()) == Some(key);
        // Another key with the same 32 bits of hash is rarer than a flipped bit: look closely.
        Ok(same || self.entry(place)?.key == key)
    }

    /// The entry for a key, verified, unless it is absent or gone at `now`.
    #[inline]
    pub(super) fn get(&self, key: &[u8], now: u64) -> Result<Option<Entry<'_>>, Damage> {
        let found = self.find(key)?;
        if found.place.is_none() {
            return Ok(None);
        }
        let entry = self.entry(found.place)?;
        Ok(entry.is_live(now).then_some(entry))
    }

    /// Counts an entry and puts it at the front of its bucket.
    pub(super) fn link(&mut self, place: Place, hash: u32) -> Result<(), Damage> {
        let links = Links {
            next: self.bucket(self.index_of(hash))?,
            hash,
            ..Links::zeroed()
        };
        self.set_links(place, links);
        self.arena.write(self.bucket_at(hash), &Head::new(place));
        self.globals.keys += 1;
        if self.globals.keys > self.globals.buckets && self.globals.buckets < self.globals.capacity
        {
            self.split_bucket()?;
        }
        Ok(())
    }

    /// Puts an entry that is in no bucket where `found` is.
    pub(super) fn relink(
        &mut self,
        place: Place,
        found: &Found,
        next: Place,
    ) -> Result<(), Damage> {
        let links = Links {
            next,
            hash: found.hash,
            ..Links::zeroed()
        };
        self.set_links(place, links);
        self.unlink(found, place)
    }

    /// Lets what points to `found` point to `next`.
    pub(super) fn unlink(&mut self, found: &Found, next: Place) -> Result<(), Damage> {
        if found.before.is_none() {
            self.arena
                .write(self.bucket_at(found.hash), &Head::new(next));
            return Ok(());
        }
        let before = Links {
            next,
            ..self.links(found.before)?
        };
        self.set_links(found.before, before);
        Ok(())
    }

    /// Finds the entry at `place`, known to be in the table.
    pub(super) fn locate(&self, place: Place) -> Result<Found, Damage> {
        let hash = self.links(place)?.hash;
        let mut found = Found {
            place: self.bucket(self.index_of(hash))?,
            before: Place::NONE,
            hash,
        };
        // An entry that is not in the bucket of its key leads to the chain's end.
        while found.place != place {
            found.before = found.place;
            found.place = self.links(found.place)?.next;
        }
        Ok(found)
    }
}

const fn bucket_at(index: u64) -> usize {
    TABLE_AT + index as usize * HEAD_SIZE
}

impl Entry<'_> {
    /// Whether it still counts at `now`, in milliseconds: a key is gone exactly when its deadline is
    /// at or before the time.
    #[inline]
    pub(super) const fn is_live(&self, now: u64) -> bool {
        self.body.deadline == 0 || self.body.deadline > now
    }
}

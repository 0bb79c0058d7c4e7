//! How much one operation may do before it stops: the same on every replica.
//!
//! A replica does nothing else while it executes, so no operation may take long. Time cannot be
//! measured, since replicas must agree; instead the work is counted, in units of about a nanosecond,
//! where it is done: for every key looked for, entry verified, bucket walked, step of a pattern. When
//! [`WORK_MAX`] is spent the operation ends before its next command, and whoever packed it sends the
//! rest again. A command that would spend as much by itself is answered with an error, except those
//! whose work the size of an operation bounds.

use super::damage::Damage;
use super::store::Store;

/// What one operation may spend before its next command waits, and what one command may.
pub(super) const WORK_MAX: u64 = 8_000_000;
/// More keys than this and KEYS does not even begin.
pub(super) const KEYS_MAX: u64 = 50_000;

/// Looking for a key: the misses of a bucket and of what is in it.
pub(super) const FIND: u64 = 64;
/// Verifying an entry, besides its bytes.
const ENTRY: u64 = 128;
/// Bytes that are verified, or written and sealed, for one unit of work.
const BYTES: u64 = 8;
/// Looking at a bucket while walking over all of them.
pub(super) const BUCKET: u64 = 2;

impl Store {
    /// A new operation begins.
    pub(super) fn begin_work(&self) {
        self.work.set(0);
    }

    /// Notes `work`.
    #[inline]
    pub(super) fn charge(&self, work: u64) {
        self.work.set(self.work.get().saturating_add(work));
    }

    /// Notes that an entry of `size` bytes was verified or written.
    #[inline]
    pub(super) fn charge_entry(&self, size: usize) {
        self.charge(ENTRY + size as u64 / BYTES);
    }

    /// Whether the operation has done enough.
    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.work.get() > WORK_MAX
    }

    /// When a command that begins now has done enough; see [`Self::is_past`].
    pub(super) fn work_limit(&self) -> u64 {
        self.work.get().saturating_add(WORK_MAX)
    }

    /// Whether so much has been done.
    #[inline]
    pub(super) fn is_past(&self, limit: u64) -> bool {
        self.work.get() > limit
    }

    /// How much is left before `limit`.
    pub(super) fn work_left(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.work.get())
    }

    /// Whether removing or replacing the values of `keys` would be too much for one command.
    /// `count` is how many there are.
    pub(super) fn weighs_too_much<'a, I: Iterator<Item = &'a [u8]>>(
        &self,
        count: usize,
        keys: impl Fn() -> I,
    ) -> Result<bool, Damage> {
        /// So few values, however large, are never too much.
        const FEW: usize = 16;
        if count <= FEW {
            return Ok(false);
        }
        // Each is verified, taken out of the digest and put back.
        let mut weight = 0;
        for key in keys() {
            weight += 3 * self.peek_size(key)? as u64 / BYTES;
        }
        if weight <= WORK_MAX {
            // Whoever removes them verifies them.
            return Ok(false);
        }
        // It will be refused because of those sizes: so they are verified first, as many as it takes.
        let mut verified = 0;
        for key in keys() {
            verified += 3 * self.value_size(key)? as u64 / BYTES;
            if verified > WORK_MAX {
                return Ok(true);
            }
        }
        // No bit of them is wrong, and yet the sum is another.
        Err(Damage::UNKNOWN)
    }
}

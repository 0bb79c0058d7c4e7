//! `MULTI`, `EXEC` and `WATCH` of one connection.
//!
//! A transaction is one operation of the log: the commands are collected here in the form in which
//! they are packed, and `EXEC` sends them all at once. `WATCH` asks for the version of each key with
//! a linearizable query; `EXEC` carries keys and versions, and the machine, on every replica alike,
//! executes nothing when one of them has changed. So a watch needs no state outside this connection
//! and holds across a change of primary.
//!
//! All of it lies in pages of a pool. When none are left, the transaction that wants more fails.

use super::memory::SPLICES_MAX;
use super::pages::{Chain, PAGE, Pages};
use crate::kv::{Opcode, codec::ARGUMENT_HEADER_SIZE};

/// The most keys one connection may watch.
const WATCHES_MAX: usize = 1024;

/// Why a command could not be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The transaction would be larger than an operation may be.
    TooLarge,
    /// There are no pages for it.
    NoMemory,
}

/// The state of one connection's transaction.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    open: bool,
    aborted: bool,
    /// Queued machine commands: size u32, then the packed command, each.
    queue: Chain,
    /// How many commands were queued, local ones included.
    count: usize,
    /// The replies of the local commands among them: place u32, size u32, bytes, each.
    splices: Chain,
    splice_count: usize,
    /// Watched keys: size u32, bytes, each.
    keys: Chain,
    /// Their versions as far as they have come, u64 each.
    versions: Chain,
    watched: usize,
    /// How many of the watches have their version.
    known: usize,
    /// A version could not be had, so `EXEC` must not go through.
    watch_failed: bool,
}

impl Transaction {
    /// Between `MULTI` and `EXEC`.
    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// `MULTI`.
    pub(super) fn open(&mut self) {
        assert!(!self.open, "transactions do not nest");
        self.open = true;
    }

    /// A command could not be queued: `EXEC` will discard the transaction.
    pub(super) const fn abort(&mut self) {
        if self.open {
            self.aborted = true;
        }
    }

    /// Whether `EXEC` must discard the transaction.
    pub(super) const fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// Forgets queue and watches.
    pub(super) fn reset(&mut self, pages: &mut Pages) {
        self.drop_splices(pages);
        self.sent(pages);
    }

    /// Queues a machine command.
    ///
    /// # Errors
    /// [`Refused`], with nothing queued, when the transaction would exceed `size_max` bytes or its
    /// pages.
    pub(super) fn queue<'a>(
        &mut self,
        opcode: Opcode,
        arguments: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        size_max: usize,
        pages: &mut Pages,
    ) -> Result<(), Refused> {
        let payload: usize = arguments
            .clone()
            .map(|bytes| bytes.len() + ARGUMENT_HEADER_SIZE)
            .sum();
        let size = payload + 4;
        let argc = u16::try_from(arguments.len()).map_err(|_| Refused::TooLarge)?;
        if self.size() + ARGUMENT_HEADER_SIZE + size > size_max {
            return Err(Refused::TooLarge);
        }
        if (ARGUMENT_HEADER_SIZE + size).div_ceil(PAGE) > pages.available() {
            return Err(Refused::NoMemory);
        }
        let mut put = |bytes: &[u8]| {
            let fits = pages.append(&mut self.queue, bytes);
            assert!(fits, "the pages were counted");
        };
        put(&(size as u32).to_le_bytes());
        put(&[opcode.byte(), 0]);
        put(&argc.to_le_bytes());
        for argument in arguments {
            put(&(argument.len() as u32).to_le_bytes());
            put(argument);
        }
        self.count += 1;
        Ok(())
    }

    /// Queues a command that the gateway answers with `reply`.
    ///
    /// # Errors
    /// As [`Self::queue`].
    pub(super) fn queue_local(
        &mut self,
        reply: &[u8],
        size_max: usize,
        pages: &mut Pages,
    ) -> Result<(), Refused> {
        let size = reply.len() + 8;
        if self.splices.size() + size > SPLICES_MAX || self.size() + size > size_max {
            return Err(Refused::TooLarge);
        }
        if size.div_ceil(PAGE) > pages.available() {
            return Err(Refused::NoMemory);
        }
        let [place, length] = [self.count as u32, reply.len() as u32];
        let fits = pages.append(&mut self.splices, &place.to_le_bytes())
            && pages.append(&mut self.splices, &length.to_le_bytes())
            && pages.append(&mut self.splices, reply);
        assert!(fits, "the pages were counted");
        self.splice_count += 1;
        self.count += 1;
        Ok(())
    }

    /// What the operation will need at least.
    const fn size(&self) -> usize {
        self.queue.size() + self.keys.size() + 8 * self.watched + self.splices.size()
    }

    /// Copies the packed commands, the keys and the versions out, in this order, for [`Packed`].
    pub(super) fn copy_to(&self, pages: &Pages, into: &mut Vec<u8>) {
        into.clear();
        for chain in [&self.queue, &self.keys, &self.versions] {
            pages
                .pieces(chain)
                .for_each(|piece| into.extend_from_slice(piece));
        }
    }

    /// What [`Self::copy_to`] has written into `bytes`.
    pub(super) fn packed<'a>(&self, bytes: &'a [u8]) -> Packed<'a> {
        let (queue, rest) = bytes.split_at(self.queue.size());
        let (keys, versions) = rest.split_at(self.keys.size());
        Packed {
            queue,
            keys,
            versions,
        }
    }

    /// The transaction is on its way; the replies given here stay until its own has come.
    pub(super) fn sent(&mut self, pages: &mut Pages) {
        pages.clear(&mut self.queue);
        self.open = false;
        self.aborted = false;
        self.count = 0;
        self.unwatch(pages);
    }

    /// How many commands the gateway answers itself.
    pub(super) const fn splices(&self) -> usize {
        self.splice_count
    }

    /// After how many commands the next of them comes; none when all were taken.
    pub(super) fn next_splice(&self, pages: &Pages) -> Option<usize> {
        if self.splices.is_empty() {
            return None;
        }
        let mut place = [0; 4];
        pages.peek(&self.splices, &mut place);
        Some(u32::from_le_bytes(place) as usize)
    }

    /// Moves the reply to the next of them to the end of `into`.
    pub(super) fn take_splice(&mut self, pages: &mut Pages, into: &mut Vec<u8>) {
        let mut head = [0; 8];
        pages.peek(&self.splices, &mut head);
        pages.consume(&mut self.splices, head.len());
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        pages.take_into(&mut self.splices, size, into);
    }

    /// Forgets the replies given here.
    pub(super) fn drop_splices(&mut self, pages: &mut Pages) {
        pages.clear(&mut self.splices);
        self.splice_count = 0;
    }

    /// Adds a key to watch; its version comes later.
    pub(super) fn watch(&mut self, key: &[u8], pages: &mut Pages) {
        let fits = pages.append(&mut self.keys, &(key.len() as u32).to_le_bytes())
            && pages.append(&mut self.keys, key);
        assert!(fits, "the room was asked for");
        self.watched += 1;
    }

    /// Whether `count` more keys of `size` bytes in all may be watched.
    ///
    /// # Errors
    /// Why not.
    pub(super) const fn has_room_for(
        &self,
        count: usize,
        size: usize,
        pages: &Pages,
    ) -> Result<(), Refused> {
        if self.watched + count > WATCHES_MAX {
            return Err(Refused::TooLarge);
        }
        // The versions, too, will need room when they come.
        if (size + 4 * count).div_ceil(PAGE) + VERSION_PAGES > pages.available() {
            return Err(Refused::NoMemory);
        }
        Ok(())
    }

    /// The version of the next key has come; none: it could not be had.
    pub(super) fn versioned(&mut self, version: Option<u64>, pages: &mut Pages) {
        let known = self.known < self.watched
            && version
                .is_some_and(|version| pages.append(&mut self.versions, &version.to_le_bytes()));
        if !known {
            self.watch_failed = true;
        }
        self.known += 1;
    }

    /// Whether versions are still on their way.
    pub(super) const fn is_waiting_for_versions(&self) -> bool {
        self.known < self.watched
    }

    /// Whether a watched key's version is not known, so that nothing may be executed.
    pub(super) const fn is_watch_failed(&self) -> bool {
        self.watch_failed
    }

    /// `UNWATCH`.
    pub(super) fn unwatch(&mut self, pages: &mut Pages) {
        pages.clear(&mut self.keys);
        pages.clear(&mut self.versions);
        self.watched = 0;
        self.known = 0;
        self.watch_failed = false;
    }
}

/// Pages that the versions of all watched keys need.
const VERSION_PAGES: usize = (8 * WATCHES_MAX).div_ceil(PAGE);

/// A transaction's commands, keys and versions, each in one piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed<'a> {
    queue: &'a [u8],
    keys: &'a [u8],
    versions: &'a [u8],
}

impl<'a> Packed<'a> {
    /// The packed commands, in order.
    pub(super) fn queued(self) -> impl Iterator<Item = &'a [u8]> {
        sized(self.queue)
    }

    /// Keys and versions.
    pub(super) fn watches(self) -> impl Iterator<Item = (&'a [u8], u64)> {
        let versions = self.versions.as_chunks::<8>().0.iter();
        sized(self.keys).zip(versions.map(|version| u64::from_le_bytes(*version)))
    }
}

fn sized(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (size, tail) = rest.split_first_chunk::<4>()?;
        let (bytes, tail) = tail.split_at(u32::from_le_bytes(*size) as usize);
        rest = tail;
        Some(bytes)
    })
}

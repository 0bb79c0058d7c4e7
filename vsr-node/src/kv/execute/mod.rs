//! Executing packed operations: one entry after the other, each with its reply.
//!
//! Whether an entry's reply fits is decided before the entry changes anything: reads are tried and
//! taken back, writes have a bound known in advance. The first entry that does not fit ends the
//! operation there, and whoever packed it sends the rest again; an entry that can never fit gets an
//! error instead, so that everybody makes progress. In the same way an operation ends early that has
//! done as much work as one step may (`kv/work.rs`).
//!
//! Commands do the same under `apply` and `query`, through the same functions; `query` takes reads.

mod keys;
mod numbers;
mod options;
mod strings;
mod transactions;

pub(super) use transactions::check as check_transaction;

use super::codec::{Entries, Entry, REPLY_HEADER_SIZE};
use super::commands::Opcode;
use super::damage::{Damage, Failure, Outcome};
use super::digest;
use super::layout::Place;
use super::reply::{MALFORMED, NOT_A_QUERY, REPLY_TOO_LARGE, Reply, SMALL};
use super::store::{self, Found, Store};
use vsr_consensus::Context;
use vsr_types::limits::OPERATION_SIZE_MAX;

/// The largest value. An operation that sets it (or a reply that returns it) holds headers and a key
/// of some size besides.
pub const STRING_SIZE_MAX: usize = OPERATION_SIZE_MAX - 1024;

/// The smallest buffer that a reply may be written into: one small reply and its framing.
pub const REPLY_BUFFER_MIN: usize = 2 * REPLY_HEADER_SIZE + SMALL;

/// How many commands ahead memory is touched: as many misses as a core has in flight.
const WARM: usize = 16;
/// Fewer commands than this are not worth touching anything for.
const WARM_MIN: usize = 3;

/// The time and the randomness of one operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Milliseconds since the Unix epoch.
    pub(super) now: u64,
    /// Equal everywhere at the same (op, index).
    pub(super) random: u64,
}

impl Moment {
    pub(super) fn of(at: &Context) -> Self {
        Self {
            now: at.timestamp.as_millis(),
            random: digest::mix(at.stamp.op.raw(), u64::from(at.index)),
        }
    }
}

/// The packed reply while it grows.
struct Packer<'a> {
    bytes: &'a mut [u8],
    used: usize,
    executed: u32,
}

impl<'a> Packer<'a> {
    fn new(bytes: &'a mut [u8]) -> Self {
        assert!(
            bytes.len() >= REPLY_BUFFER_MIN,
            "the replica's reply buffer holds one small reply"
        );
        Self {
            bytes,
            used: REPLY_HEADER_SIZE,
            executed: 0,
        }
    }

    fn next(&mut self) -> Reply<'_> {
        let start = (self.used + REPLY_HEADER_SIZE).min(self.bytes.len());
        Reply::new(&mut self.bytes[start..])
    }

    fn commit(&mut self, size: usize) {
        let header = self.used..self.used + REPLY_HEADER_SIZE;
        self.bytes[header].copy_from_slice(&(size as u32).to_le_bytes());
        self.used += REPLY_HEADER_SIZE + size;
        self.executed += 1;
    }

    /// Commits an error; false when there is no room for it.
    fn commit_error(&mut self, text: super::reply::Text) -> bool {
        let mut reply = self.next();
        reply.error(text);
        let (size, fits) = (reply.used(), !reply.overflowed());
        if fits {
            self.commit(size);
        }
        fits
    }

    fn finish(self) -> usize {
        self.bytes[..REPLY_HEADER_SIZE].copy_from_slice(&self.executed.to_le_bytes());
        self.used
    }
}

impl Store {
    /// Executes an operation; returns the size of the packed reply.
    ///
    /// # Errors
    /// When something that it needed is damaged. It was executed in part, and has no reply.
    pub(super) fn execute(
        &mut self,
        at: &Moment,
        operation: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, Damage> {
        let mut packer = Packer::new(reply);
        let Ok(entries) = Entries::parse(operation) else {
            packer.commit_error(MALFORMED);
            return Ok(packer.finish());
        };
        let mut entries = entries;
        let mut until_warm = 0;
        loop {
            if until_warm == 0 {
                self.warm(entries);
                until_warm = WARM;
            }
            until_warm -= 1;
            let Some(entry) = entries.next() else {
                break;
            };
            if packer.executed > 0 && self.is_spent() {
                break;
            }
            let Some(entry) = entry.ok().filter(Entry::is_well_formed) else {
                packer.commit_error(MALFORMED);
                break;
            };
            let goes_on = if entry.opcode.is_read() {
                self.pack_read(at, &entry, &mut packer)?
            } else {
                self.pack_write(at, &entry, &mut packer)?
            };
            if !goes_on {
                break;
            }
        }
        Ok(packer.finish())
    }

    /// Touches what the next commands will need: the buckets of their keys, then the entries. Each
    /// is a cache miss of its own once the data is larger than the caches, and taken together they
    /// wait for memory once instead of one after the other. Nothing here is believed or kept.
    fn warm(&self, entries: Entries<'_>) {
        if entries.len() < WARM_MIN {
            return;
        }
        let mut places = [Place::NONE; WARM];
        for (place, entry) in places.iter_mut().zip(entries) {
            let Ok(entry) = entry else {
                return;
            };
            *place = self.peek_bucket(entry.argument(0));
        }
        let mut touched = 0;
        for place in places {
            for line in [0, 64, 128] {
                touched ^= self.arena.peek(place.at() + line);
            }
        }
        std::hint::black_box(touched);
    }

    /// Answers a query; returns the size of the packed reply.
    ///
    /// # Errors
    /// When something that it needed is damaged: there is no reply.
    pub(super) fn answer(
        &self,
        at: &Moment,
        query: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, Damage> {
        let mut packer = Packer::new(reply);
        let Ok(entries) = Entries::parse(query) else {
            packer.commit_error(MALFORMED);
            return Ok(packer.finish());
        };
        self.begin_work();
        for entry in entries {
            if packer.executed > 0 && self.is_spent() {
                break;
            }
            let Some(entry) = entry.ok().filter(Entry::is_well_formed) else {
                packer.commit_error(MALFORMED);
                break;
            };
            let goes_on = if entry.opcode.is_read() {
                self.pack_read(at, &entry, &mut packer)?
            } else {
                packer.commit_error(NOT_A_QUERY)
            };
            if !goes_on {
                break;
            }
        }
        Ok(packer.finish())
    }

    /// Executes a read into the packer; false when it did not fit and was not executed.
    fn pack_read(
        &self,
        at: &Moment,
        entry: &Entry<'_>,
        packer: &mut Packer<'_>,
    ) -> Result<bool, Damage> {
        let first = packer.executed == 0;
        let mut reply = packer.next();
        self.read(at, entry, &mut reply)?;
        let (size, fits) = (reply.used(), !reply.overflowed());
        if fits {
            packer.commit(size);
            return Ok(true);
        }
        Ok(first && packer.commit_error(REPLY_TOO_LARGE))
    }

    fn pack_write(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        packer: &mut Packer<'_>,
    ) -> Result<bool, Damage> {
        let first = packer.executed == 0;
        let bound = self.reply_bound(entry)?;
        let mut reply = packer.next();
        let is_transaction = entry.opcode == Opcode::Exec;
        // A transaction that comes first may be cut to the buffer's size by the errors inside it.
        if reply.room() < bound && !(first && is_transaction) {
            return Ok(first && packer.commit_error(REPLY_TOO_LARGE));
        }
        if is_transaction {
            self.transaction(at, entry, &mut reply)?;
        } else {
            self.write(at, entry, &mut reply)?;
        }
        assert!(!reply.overflowed(), "a write's reply is within its bound");
        let size = reply.used();
        packer.commit(size);
        Ok(true)
    }

    /// The most bytes that the reply to a write can take, to be asked before it is executed: what it
    /// removes cannot be returned later.
    fn reply_bound(&self, entry: &Entry<'_>) -> Result<usize, Damage> {
        Ok(match entry.opcode {
            Opcode::GetSet | Opcode::GetDel | Opcode::GetEx | Opcode::Set => {
                // Only SET with options can return the old value.
                if entry.opcode == Opcode::Set && entry.argc() == 2 {
                    return Ok(SMALL);
                }
                SMALL + self.value_size(entry.argument(0))?
            }
            Opcode::Exec => self.transaction_bound(entry)?,
            _ => SMALL,
        })
    }

    /// The size of the value under a key, also of one that is due.
    pub(super) fn value_size(&self, key: &[u8]) -> Result<usize, Damage> {
        let place = self.find(key)?.place;
        if place.is_none() {
            return Ok(0);
        }
        Ok(self.entry(place)?.value.len())
    }

    /// Executes one read.
    fn read(&self, at: &Moment, entry: &Entry<'_>, reply: &mut Reply<'_>) -> Result<(), Damage> {
        if !arity(entry, reply) {
            return Ok(());
        }
        let start = reply.used();
        let outcome = match entry.opcode {
            Opcode::Get | Opcode::MGet | Opcode::StrLen | Opcode::GetRange | Opcode::SubStr => {
                self.read_string(at, entry, reply)
            }
            _ => self.read_keys(at, entry, reply),
        };
        finish(outcome, start, reply)
    }

    /// Executes one write, transactions excepted.
    fn write(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Damage> {
        if !arity(entry, reply) {
            return Ok(());
        }
        let start = reply.used();
        let outcome = self.dispatch_write(at, entry, reply);
        finish(outcome, start, reply)
    }

    fn dispatch_write(&mut self, at: &Moment, entry: &Entry<'_>, reply: &mut Reply<'_>) -> Outcome {
        match entry.opcode {
            Opcode::Set => self.set(at, entry, reply),
            Opcode::SetNx => self.set_nx(at, entry, reply),
            Opcode::SetEx | Opcode::PSetEx => self.set_ex(at, entry, reply),
            Opcode::GetSet => self.get_set(at, entry, reply),
            Opcode::GetDel => self.get_del(at, entry, reply),
            Opcode::GetEx => self.get_ex(at, entry, reply),
            Opcode::MSet | Opcode::MSetNx => self.set_many(at, entry, reply),
            Opcode::Append => self.append(at, entry, reply),
            Opcode::SetRange => self.set_range(at, entry, reply),
            Opcode::Incr | Opcode::IncrBy | Opcode::Decr | Opcode::DecrBy => {
                self.increment(at, entry, reply)
            }
            Opcode::IncrByFloat => self.increment_float(at, entry, reply),
            Opcode::Del | Opcode::Unlink => self.delete(at, entry, reply),
            Opcode::DelEx | Opcode::DelIfEq => self.delete_if(at, entry, reply),
            Opcode::Expire | Opcode::PExpire | Opcode::ExpireAt | Opcode::PExpireAt => {
                self.expire(at, entry, reply)
            }
            Opcode::Persist => self.persist(at, entry, reply),
            Opcode::Rename | Opcode::RenameNx => self.rename(at, entry, reply),
            Opcode::Copy => self.copy(at, entry, reply),
            Opcode::FlushAll | Opcode::FlushDb => self.flush(entry, reply),
            // Reads and transactions do not come here.
            _ => Err(MALFORMED.into()),
        }
    }

    /// The verified entry that was found, unless it is gone at this moment.
    fn live(&self, at: &Moment, found: &Found) -> Result<Option<store::Entry<'_>>, Damage> {
        if found.place.is_none() {
            return Ok(None);
        }
        let entry = self.entry(found.place)?;
        Ok(entry.is_live(at.now).then_some(entry))
    }
}

/// Checks the number of arguments; writes the error itself.
fn arity(entry: &Entry<'_>, reply: &mut Reply<'_>) -> bool {
    let spec = entry.opcode.spec();
    let accepted = spec.accepts(entry.argc() + 1);
    if !accepted {
        wrong_arguments(entry, reply);
    }
    accepted
}

fn wrong_arguments(entry: &Entry<'_>, reply: &mut Reply<'_>) {
    let name = entry.opcode.name().as_bytes();
    reply.error_about("ERR wrong number of arguments for '", name, "' command");
}

/// Turns a failure into the reply, in place of whatever was written before it.
fn finish(outcome: Outcome, start: usize, reply: &mut Reply<'_>) -> Result<(), Damage> {
    match outcome {
        Ok(()) => Ok(()),
        Err(Failure::Told(text)) => {
            reply.rewind(start);
            reply.error(text);
            Ok(())
        }
        Err(Failure::Damaged(damage)) => Err(damage),
    }
}

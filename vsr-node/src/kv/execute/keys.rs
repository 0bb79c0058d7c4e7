//! Commands on keys, whatever their value is.

use super::Moment;
use super::options::{BadOption, BadTime, ExpireOptions, absolute};
use crate::kv::codec::{Arguments, Entry};
use crate::kv::commands::Opcode;
use crate::kv::damage::{Damage, Failure, Outcome};
use crate::kv::glob;
use crate::kv::number::{parse_cursor, parse_integer};
use crate::kv::reply::{
    DB_RANGE, INVALID_CURSOR, NO_SUCH_KEY, NOT_AN_INTEGER, PATTERN_TOO_SLOW, REPLY_TOO_LARGE,
    Reply, SAME_OBJECT, SYNTAX, TOO_MANY_KEYS, TOO_MUCH_WORK,
};
use crate::kv::store::Store;
use crate::kv::work::{BUCKET, KEYS_MAX};

/// Empty buckets that one SCAN may look at beyond the number of keys asked for. A bucket is 8 bytes:
/// so many are read in a few microseconds, and a nearly empty table is still walked in few calls.
const SCAN_BUCKETS: u64 = 16 * 1024;

impl Store {
    pub(super) fn read_keys(
        &self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let key = entry.argument(0);
        match entry.opcode {
            Opcode::Exists | Opcode::Touch => {
                let limit = self.work_limit();
                let mut count = 0;
                for key in entry.arguments() {
                    if self.is_past(limit) {
                        return Err(TOO_MUCH_WORK.into());
                    }
                    count += i64::from(self.get(key, at.now)?.is_some());
                }
                reply.integer(count);
            }
            Opcode::Type => {
                let found = self.get(key, at.now)?.is_some();
                reply.simple(if found { "string" } else { "none" });
            }
            Opcode::Ttl | Opcode::PTtl | Opcode::ExpireTime | Opcode::PExpireTime => {
                reply.integer(self.time_left(at, entry)?);
            }
            Opcode::DbSize => reply.count(self.globals.keys),
            Opcode::Version => {
                let version = self.get(key, at.now)?.map_or(0, |found| found.body.version);
                reply.count(version);
            }
            Opcode::RandomKey => return self.random_key(at, reply),
            Opcode::Keys => return self.keys(at, key, reply),
            Opcode::Scan => return self.scan(at, entry, reply),
            // Everything else is a string command or a write.
            _ => return Err(crate::kv::reply::MALFORMED.into()),
        }
        Ok(())
    }

    fn time_left(&self, at: &Moment, entry: &Entry<'_>) -> Result<i64, Damage> {
        let Some(found) = self.get(entry.argument(0), at.now)? else {
            return Ok(-2);
        };
        let deadline = found.body.deadline;
        if deadline == 0 {
            return Ok(-1);
        }
        let milliseconds = match entry.opcode {
            Opcode::Ttl | Opcode::PTtl => deadline - at.now,
            _ => deadline,
        };
        let time = match entry.opcode {
            Opcode::Ttl | Opcode::ExpireTime => milliseconds.saturating_add(500) / 1000,
            _ => milliseconds,
        };
        Ok(i64::try_from(time).unwrap_or(i64::MAX))
    }

    /// The first live key from a bucket on that (op, index) choose.
    fn random_key(&self, at: &Moment, reply: &mut Reply<'_>) -> Outcome {
        let limit = self.work_limit();
        let buckets = self.globals.buckets;
        let mut left = self.globals.keys;
        for step in 0..buckets {
            if left == 0 {
                break;
            }
            if self.is_past(limit) {
                return Err(TOO_MUCH_WORK.into());
            }
            self.charge(BUCKET);
            let index = (at.random % buckets + step) % buckets;
            let mut place = self.bucket(index)?;
            while !place.is_none() {
                left = left.checked_sub(1).ok_or(Damage::UNKNOWN)?;
                let entry = self.entry(place)?;
                if entry.is_live(at.now) {
                    reply.bulk(entry.key);
                    return Ok(());
                }
                place = self.links(place)?.next;
            }
        }
        reply.null();
        Ok(())
    }

    /// Writes the matching live keys of a bucket whose reversed hashes are at or after `from`. None
    /// when that would be more work than is left before `limit`.
    fn bucket_keys(
        &self,
        at: &Moment,
        (index, from): (u64, u32),
        pattern: Option<&[u8]>,
        limit: u64,
        reply: &mut Reply<'_>,
    ) -> Result<Option<Walked>, Damage> {
        self.charge(BUCKET);
        let mut walked = Walked::default();
        let mut place = self.bucket(index)?;
        while !place.is_none() {
            let entry = self.entry(place)?;
            let links = self.links(place)?;
            walked.seen += 1;
            let wanted = links.hash.reverse_bits() >= from && entry.is_live(at.now);
            if wanted {
                match self.fits_pattern(pattern, entry.key, limit) {
                    Some(false) => {}
                    Some(true) => {
                        reply.bulk(entry.key);
                        walked.written += 1;
                    }
                    None => return Ok(None),
                }
            }
            place = links.next;
        }
        Ok(Some(walked))
    }

    fn fits_pattern(&self, pattern: Option<&[u8]>, key: &[u8], limit: u64) -> Option<bool> {
        let Some(pattern) = pattern else {
            return Some(true);
        };
        let before = self.work_left(limit);
        let mut left = before;
        let fits = glob::matches(pattern, key, &mut left);
        self.charge(before - left);
        fits
    }

    fn keys(&self, at: &Moment, pattern: &[u8], reply: &mut Reply<'_>) -> Outcome {
        if self.globals.keys > KEYS_MAX {
            return Err(TOO_MANY_KEYS.into());
        }
        let limit = self.work_limit();
        let start = reply.begin_list();
        let (mut count, mut seen) = (0, 0);
        for index in 0..self.globals.buckets {
            if seen == self.globals.keys || reply.overflowed() {
                break;
            }
            let walked = self.bucket_keys(at, (index, 0), Some(pattern), limit, reply)?;
            let Some(walked) = walked.filter(|_| !self.is_past(limit)) else {
                return Err(TOO_MANY_KEYS.into());
            };
            count += walked.written;
            seen += walked.seen;
        }
        reply.end_list(start, count, None);
        Ok(())
    }

    fn scan(&self, at: &Moment, entry: &Entry<'_>, reply: &mut Reply<'_>) -> Outcome {
        let mut arguments = entry.arguments();
        let cursor = parse_cursor(arguments.next().unwrap_or_default()).ok_or(INVALID_CURSOR)?;
        let options = ScanOptions::parse(arguments)?;
        let limit = self.work_limit();
        let start = reply.begin_list();
        let (mut count, mut seen) = (0, 0);
        let mut buckets = SCAN_BUCKETS.saturating_add(options.count);
        // A place in the order of reversed hashes, or 2^32 and more: the end.
        let mut next = cursor;
        while let Ok(from) = u32::try_from(next)
            && buckets > 0
            && seen < options.count
            && options.strings
            && !self.is_past(limit)
        {
            let mark = reply.used();
            let (index, after) = self.interval(from);
            let walked = self.bucket_keys(at, (index, from), options.pattern, limit, reply)?;
            let Some(walked) = walked else {
                if next == cursor {
                    return Err(PATTERN_TOO_SLOW.into());
                }
                // The next call goes on with this bucket.
                reply.rewind(mark);
                break;
            };
            if reply.overflowed() {
                if count == 0 {
                    return Err(REPLY_TOO_LARGE.into());
                }
                // The buffer is full: the next call goes on with this bucket.
                reply.rewind(mark);
                break;
            }
            count += walked.written;
            seen += walked.seen;
            buckets -= 1;
            next = after;
        }
        if u32::try_from(next).is_err() || !options.strings {
            next = 0;
        }
        reply.end_list(start, count, Some(next));
        Ok(())
    }

    pub(super) fn delete(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if self.weighs_too_much(entry.argc(), || entry.arguments())? {
            return Err(TOO_MUCH_WORK.into());
        }
        let mut count = 0;
        for key in entry.arguments() {
            let found = self.find(key)?;
            if self.live(at, &found)?.is_some() {
                self.remove(&found)?;
                count += 1;
            }
        }
        reply.integer(count);
        Ok(())
    }

    pub(super) fn expire(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let mut arguments = entry.arguments();
        let key = arguments.next().unwrap_or_default();
        let text = arguments.next().unwrap_or_default();
        let options = match ExpireOptions::parse(arguments) {
            Ok(options) => options,
            Err(BadOption::Incompatible(failure)) => return Err(failure),
            Err(BadOption::Unknown(word)) => {
                reply.error_about("ERR Unsupported option ", word, "");
                return Ok(());
            }
        };
        let number = parse_integer(text).ok_or(NOT_AN_INTEGER)?;
        let (unit, relative) = match entry.opcode {
            Opcode::Expire => (1000, true),
            Opcode::PExpire => (1, true),
            Opcode::ExpireAt => (1000, false),
            _ => (1, false),
        };
        let Ok(deadline) = absolute(at, number, unit, relative) else {
            BadTime::Invalid.write(entry.opcode.name(), reply);
            return Ok(());
        };
        let found = self.find(key)?;
        let old = self.live(at, &found)?.map(|old| old.body.deadline);
        let changes = old.is_some_and(|old| options.allow(old, deadline));
        if changes {
            match u64::try_from(deadline) {
                Ok(deadline) if deadline > at.now => self.set_deadline(found.place, deadline)?,
                _ => self.remove(&found)?,
            }
        }
        reply.integer(i64::from(changes));
        Ok(())
    }

    pub(super) fn persist(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let found = self.find(entry.argument(0))?;
        let changes = self
            .live(at, &found)?
            .is_some_and(|old| old.body.deadline != 0);
        if changes {
            self.set_deadline(found.place, 0)?;
        }
        reply.integer(i64::from(changes));
        Ok(())
    }

    /// RENAME and RENAMENX.
    pub(super) fn rename(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let (from, to) = (entry.argument(0), entry.argument(1));
        let source = self.find(from)?;
        if self.live(at, &source)?.is_none() {
            return Err(NO_SUCH_KEY.into());
        }
        let only_new = entry.opcode == Opcode::RenameNx;
        let blocked = only_new && self.live(at, &self.find(to)?)?.is_some();
        if !blocked && from != to {
            let place = self.prepare_copy(to, source.place)?;
            self.remove(&source)?;
            self.adopt(to, place)?;
        }
        if only_new {
            reply.integer(i64::from(!blocked));
        } else {
            reply.ok();
        }
        Ok(())
    }

    pub(super) fn copy(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let mut arguments = entry.arguments();
        let from = arguments.next().unwrap_or_default();
        let to = arguments.next().unwrap_or_default();
        let replace = copy_options(arguments)?;
        if from == to {
            return Err(SAME_OBJECT.into());
        }
        let source = self.find(from)?;
        let possible = self.live(at, &source)?.is_some()
            && (replace || self.live(at, &self.find(to)?)?.is_none());
        if possible {
            let place = self.prepare_copy(to, source.place)?;
            self.adopt(to, place)?;
        }
        reply.integer(i64::from(possible));
        Ok(())
    }

    /// FLUSHALL and FLUSHDB: there is one database, and it is emptied at once.
    pub(super) fn flush(&mut self, entry: &Entry<'_>, reply: &mut Reply<'_>) -> Outcome {
        let word = entry.argument(0);
        let known = word.eq_ignore_ascii_case(b"ASYNC") || word.eq_ignore_ascii_case(b"SYNC");
        if entry.argc() > 1 || (entry.argc() == 1 && !known) {
            return Err(SYNTAX.into());
        }
        self.clear();
        reply.ok();
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Walked {
    seen: u64,
    written: usize,
}

struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    count: u64,
    /// Whether strings are wanted: the only type there is.
    strings: bool,
}

impl<'a> ScanOptions<'a> {
    fn parse(mut rest: Arguments<'a>) -> Result<Self, Failure> {
        let mut options = Self {
            pattern: None,
            count: 10,
            strings: true,
        };
        while let Some(word) = rest.next() {
            let value = rest.next().ok_or(SYNTAX)?;
            if word.eq_ignore_ascii_case(b"MATCH") {
                options.pattern = Some(value);
            } else if word.eq_ignore_ascii_case(b"COUNT") {
                let count = parse_integer(value).ok_or(NOT_AN_INTEGER)?;
                options.count = u64::try_from(count)
                    .ok()
                    .filter(|count| *count > 0)
                    .ok_or(SYNTAX)?;
            } else if word.eq_ignore_ascii_case(b"TYPE") {
                options.strings = value.eq_ignore_ascii_case(b"string");
            } else {
                return Err(SYNTAX.into());
            }
        }
        Ok(options)
    }
}

/// Reads the options of COPY: whether it replaces.
fn copy_options(mut rest: Arguments<'_>) -> Result<bool, Failure> {
    let mut replace = false;
    while let Some(word) = rest.next() {
        if word.eq_ignore_ascii_case(b"REPLACE") {
            replace = true;
        } else if word.eq_ignore_ascii_case(b"DB") {
            let number = rest.next().ok_or(SYNTAX)?;
            match parse_integer(number) {
                Some(0) => {}
                Some(_) => return Err(DB_RANGE.into()),
                None => return Err(NOT_AN_INTEGER.into()),
            }
        } else {
            return Err(SYNTAX.into());
        }
    }
    Ok(replace)
}

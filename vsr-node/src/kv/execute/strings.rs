//! Commands on values as strings of bytes.

use super::options::{BadTime, Condition, Deadline, SetOptions, parse_get_ex, positive_time};
use super::{Moment, STRING_SIZE_MAX, wrong_arguments};
use crate::kv::codec::Entry;
use crate::kv::commands::Opcode;
use crate::kv::damage::{Damage, Outcome};
use crate::kv::layout::{Links, Place};
use crate::kv::number::parse_integer;
use crate::kv::reply::{NOT_AN_INTEGER, OFFSET_RANGE, Reply, STRING_SIZE, TOO_MUCH_WORK};
use crate::kv::store::{Edit, Found, Store};

impl Store {
    pub(super) fn read_string(
        &self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if entry.opcode == Opcode::MGet {
            reply.array(entry.argc());
            for key in entry.arguments() {
                if reply.overflowed() {
                    break;
                }
                self.reply_value(at, key, reply)?;
            }
            return Ok(());
        }
        let key = entry.argument(0);
        match entry.opcode {
            Opcode::Get => self.reply_value(at, key, reply)?,
            Opcode::StrLen => {
                let size = self.get(key, at.now)?.map_or(0, |found| found.value.len());
                reply.integer(size as i64);
            }
            _ => {
                let start = parse_integer(entry.argument(1)).ok_or(NOT_AN_INTEGER)?;
                let end = parse_integer(entry.argument(2)).ok_or(NOT_AN_INTEGER)?;
                let value = self.get(key, at.now)?.map_or(&[][..], |found| found.value);
                reply.bulk(range(value, start, end));
            }
        }
        Ok(())
    }

    #[inline]
    fn reply_value(&self, at: &Moment, key: &[u8], reply: &mut Reply<'_>) -> Result<(), Damage> {
        match self.get(key, at.now)? {
            Some(entry) => reply.bulk(entry.value),
            None => reply.null(),
        }
        Ok(())
    }

    /// Writes the value that was found, or null.
    fn reply_found(&self, at: &Moment, found: &Found, reply: &mut Reply<'_>) -> Result<(), Damage> {
        match self.live(at, found)? {
            Some(entry) => reply.bulk(entry.value),
            None => reply.null(),
        }
        Ok(())
    }

    pub(super) fn set(&mut self, at: &Moment, entry: &Entry<'_>, reply: &mut Reply<'_>) -> Outcome {
        let mut arguments = entry.arguments();
        let key = arguments.next().unwrap_or_default();
        let value = arguments.next().unwrap_or_default();
        if entry.argc() == 2 {
            // The command that is nearly all commands.
            let found = self.find(key)?;
            self.store(at, key, &found, value, 0)?;
            reply.ok();
            return Ok(());
        }
        let options = SetOptions::parse(arguments)?;
        let deadline = match options.deadline {
            Deadline::At {
                text,
                unit,
                relative,
            } => match positive_time(at, text, unit, relative) {
                Ok(deadline) => Some(deadline),
                Err(bad) => return wrong_time(&bad, entry, reply),
            },
            _ => None,
        };
        let found = self.find(key)?;
        let old = self.live(at, &found)?;
        let allowed = options.condition.holds(old.map(|old| old.value));
        let kept = old.map_or(0, |old| old.body.deadline);
        if options.get {
            self.reply_found(at, &found, reply)?;
        } else if allowed {
            reply.ok();
        } else {
            reply.null();
        }
        if !allowed {
            return Ok(());
        }
        let deadline = match options.deadline {
            Deadline::Keep => kept,
            _ => deadline.unwrap_or(0),
        };
        self.store(at, key, &found, value, deadline)
    }

    /// Stores a whole value; a deadline that has passed removes the key instead.
    fn store(
        &mut self,
        at: &Moment,
        key: &[u8],
        found: &Found,
        value: &[u8],
        deadline: u64,
    ) -> Outcome {
        if value.len() > STRING_SIZE_MAX {
            return Err(STRING_SIZE.into());
        }
        if deadline != 0 && deadline <= at.now {
            if !found.place.is_none() {
                self.remove(found)?;
            }
            return Ok(());
        }
        Ok(self.put(key, found, &Edit::whole(value), deadline)?)
    }

    pub(super) fn set_nx(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let key = entry.argument(0);
        let found = self.find(key)?;
        if self.live(at, &found)?.is_some() {
            reply.integer(0);
            return Ok(());
        }
        reply.integer(1);
        self.store(at, key, &found, entry.argument(1), 0)
    }

    pub(super) fn set_ex(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let unit = if entry.opcode == Opcode::SetEx {
            1000
        } else {
            1
        };
        let deadline = match positive_time(at, entry.argument(1), unit, true) {
            Ok(deadline) => deadline,
            Err(bad) => return wrong_time(&bad, entry, reply),
        };
        let key = entry.argument(0);
        let found = self.find(key)?;
        reply.ok();
        self.store(at, key, &found, entry.argument(2), deadline)
    }

    pub(super) fn get_set(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let key = entry.argument(0);
        let found = self.find(key)?;
        self.reply_found(at, &found, reply)?;
        self.store(at, key, &found, entry.argument(1), 0)
    }

    pub(super) fn get_del(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let found = self.find(entry.argument(0))?;
        self.reply_found(at, &found, reply)?;
        if self.live(at, &found)?.is_some() {
            self.remove(&found)?;
        }
        Ok(())
    }

    pub(super) fn get_ex(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let mut arguments = entry.arguments();
        let key = arguments.next().unwrap_or_default();
        let wanted = parse_get_ex(arguments)?;
        let found = self.find(key)?;
        let Some(old) = self.live(at, &found)? else {
            reply.null();
            return Ok(());
        };
        let kept = old.body.deadline;
        let deadline = match wanted {
            Deadline::Unsaid | Deadline::Keep => kept,
            Deadline::Never => 0,
            Deadline::At {
                text,
                unit,
                relative,
            } => match positive_time(at, text, unit, relative) {
                Ok(deadline) => deadline,
                Err(bad) => return wrong_time(&bad, entry, reply),
            },
        };
        self.reply_found(at, &found, reply)?;
        if deadline != 0 && deadline <= at.now {
            self.remove(&found)?;
        } else if deadline != kept {
            self.set_deadline(found.place, deadline)?;
        }
        Ok(())
    }

    /// MSET and MSETNX: all or nothing. Every entry gets its memory before the first is changed; the
    /// prepared ones are chained through their own links, so nothing else has to remember them.
    pub(super) fn set_many(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if !entry.argc().is_multiple_of(2) {
            wrong_arguments(entry, reply);
            return Ok(());
        }
        let mut arguments = entry.arguments();
        while let (Some(key), Some(value)) = (arguments.next(), arguments.next()) {
            if value.len() > STRING_SIZE_MAX {
                return Err(STRING_SIZE.into());
            }
            if entry.opcode == Opcode::MSetNx && self.live(at, &self.find(key)?)?.is_some() {
                reply.integer(0);
                return Ok(());
            }
        }
        if self.weighs_too_much(entry.argc() / 2, || entry.arguments().step_by(2))? {
            return Err(TOO_MUCH_WORK.into());
        }
        let mut prepared = Place::NONE;
        let mut arguments = entry.arguments();
        while let (Some(key), Some(value)) = (arguments.next(), arguments.next()) {
            match self.prepare(key, value, prepared) {
                Ok(place) => prepared = place,
                Err(denied) => {
                    self.discard_all(prepared)?;
                    return Err(denied.into());
                }
            }
        }
        self.adopt_in_order(entry, prepared)?;
        match entry.opcode {
            Opcode::MSet => reply.ok(),
            _ => reply.integer(1),
        }
        Ok(())
    }

    /// Frees prepared entries.
    fn discard_all(&mut self, mut prepared: Place) -> Result<(), Damage> {
        while !prepared.is_none() {
            let next = self.links(prepared)?.next;
            self.discard(prepared)?;
            prepared = next;
        }
        Ok(())
    }

    /// Adopts prepared entries in the order of the arguments, so that of two with one key the later
    /// counts. They are chained the other way round: turn the chain first.
    fn adopt_in_order(&mut self, entry: &Entry<'_>, prepared: Place) -> Result<(), Damage> {
        let mut turned = Place::NONE;
        let mut place = prepared;
        while !place.is_none() {
            let links = self.links(place)?;
            let back = Links {
                next: turned,
                ..links
            };
            self.set_links(place, back);
            turned = place;
            place = links.next;
        }
        for key in entry.arguments().step_by(2) {
            let next = self.links(turned)?.next;
            self.adopt(key, turned)?;
            turned = next;
        }
        Ok(())
    }

    pub(super) fn append(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let (key, data) = (entry.argument(0), entry.argument(1));
        let found = self.find(key)?;
        let old = self.live(at, &found)?;
        let keep = old.map_or(0, |old| old.value.len());
        let deadline = old.map_or(0, |old| old.body.deadline);
        let edit = Edit {
            keep,
            at: keep,
            data,
            size: keep + data.len(),
        };
        if edit.size > STRING_SIZE_MAX {
            return Err(STRING_SIZE.into());
        }
        reply.integer(edit.size as i64);
        Ok(self.put(key, &found, &edit, deadline)?)
    }

    pub(super) fn set_range(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let (key, data) = (entry.argument(0), entry.argument(2));
        let offset = parse_integer(entry.argument(1)).ok_or(NOT_AN_INTEGER)?;
        let offset = usize::try_from(offset).map_err(|_| OFFSET_RANGE)?;
        let found = self.find(key)?;
        let old = self.live(at, &found)?;
        let keep = old.map_or(0, |old| old.value.len());
        let deadline = old.map_or(0, |old| old.body.deadline);
        if data.is_empty() {
            reply.integer(keep as i64);
            return Ok(());
        }
        if offset > STRING_SIZE_MAX || offset + data.len() > STRING_SIZE_MAX {
            return Err(STRING_SIZE.into());
        }
        let edit = Edit {
            keep,
            at: offset,
            data,
            size: keep.max(offset + data.len()),
        };
        reply.integer(edit.size as i64);
        Ok(self.put(key, &found, &edit, deadline)?)
    }

    /// DELEX and DELIFEQ.
    pub(super) fn delete_if(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let mut arguments = entry.arguments();
        let key = arguments.next().unwrap_or_default();
        let condition = if entry.opcode == Opcode::DelIfEq {
            Condition::Equal(arguments.next().unwrap_or_default())
        } else {
            super::options::parse_delete_condition(arguments)?
        };
        let found = self.find(key)?;
        let value = self.live(at, &found)?.map(|old| old.value);
        let deletes = value.is_some() && condition.holds(value);
        if deletes {
            self.remove(&found)?;
        }
        reply.integer(i64::from(deletes));
        Ok(())
    }
}

/// Redis' GETRANGE: both ends count, negative ones from the end.
fn range(value: &[u8], start: i64, end: i64) -> &[u8] {
    let size = value.len() as i64;
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let start = if start < 0 {
        start.saturating_add(size).max(0)
    } else {
        start
    };
    let end = if end < 0 {
        end.saturating_add(size).max(0)
    } else {
        end.min(size - 1)
    };
    if start > end || size == 0 {
        return &[];
    }
    &value[start as usize..=end as usize]
}

fn wrong_time(bad: &BadTime, entry: &Entry<'_>, reply: &mut Reply<'_>) -> Outcome {
    bad.write(entry.opcode.name(), reply);
    Ok(())
}

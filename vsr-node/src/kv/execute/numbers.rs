//! Commands on values as numbers.

use super::Moment;
use crate::kv::codec::Entry;
use crate::kv::commands::Opcode;
use crate::kv::damage::Outcome;
use crate::kv::number::{FLOAT_SIZE_MAX, Float, INTEGER_SIZE_MAX, format_integer, parse_integer};
use crate::kv::reply::{
    DECREMENT_OVERFLOW, NAN_OR_INFINITY, NOT_A_FLOAT, NOT_AN_INTEGER, Reply, WOULD_OVERFLOW,
};
use crate::kv::store::{Edit, Store};

impl Store {
    /// INCR, INCRBY, DECR and DECRBY.
    pub(super) fn increment(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let key = entry.argument(0);
        let by = match entry.opcode {
            Opcode::Incr => 1,
            Opcode::Decr => -1,
            Opcode::IncrBy => parse_integer(entry.argument(1)).ok_or(NOT_AN_INTEGER)?,
            _ => parse_integer(entry.argument(1))
                .ok_or(NOT_AN_INTEGER)?
                .checked_neg()
                .ok_or(DECREMENT_OVERFLOW)?,
        };
        let found = self.find(key)?;
        let (old, deadline) = match self.live(at, &found)? {
            Some(old) => (
                parse_integer(old.value).ok_or(NOT_AN_INTEGER)?,
                old.body.deadline,
            ),
            None => (0, 0),
        };
        let new = old.checked_add(by).ok_or(WOULD_OVERFLOW)?;
        let mut text = [0; INTEGER_SIZE_MAX];
        let text = format_integer(new, &mut text);
        reply.integer(new);
        Ok(self.put(key, &found, &Edit::whole(text), deadline)?)
    }

    pub(super) fn increment_float(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let key = entry.argument(0);
        let found = self.find(key)?;
        let (old, deadline) = match self.live(at, &found)? {
            Some(old) => (
                Float::parse(old.value).ok_or(NOT_A_FLOAT)?,
                old.body.deadline,
            ),
            None => (Float::Decimal(0), 0),
        };
        let by = Float::parse(entry.argument(1)).ok_or(NOT_A_FLOAT)?;
        let new = old.add(by).ok_or(NAN_OR_INFINITY)?;
        let mut text = [0; FLOAT_SIZE_MAX];
        let text = new.format(&mut text);
        reply.bulk(text);
        Ok(self.put(key, &found, &Edit::whole(text), deadline)?)
    }
}

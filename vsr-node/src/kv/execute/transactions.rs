//! MULTI/EXEC as one operation: watched versions are compared, then the queued commands run with
//! nothing in between. As in Redis a failing command does not undo the others.

use super::Moment;
use crate::kv::codec::{Entry, Malformed, Watches};
use crate::kv::commands::Opcode;
use crate::kv::damage::Damage;
use crate::kv::reply::{
    MALFORMED, REPLY_TOO_LARGE, Reply, SMALL, TOO_LARGE_SIZE, TOO_MUCH_WORK, TRANSACTION_TOO_LARGE,
};
use crate::kv::store::Store;

/// What an array's head takes at most.
const ARRAY_HEAD: usize = 16;

/// Whether an [`Opcode::Exec`] entry's arguments are a watch list and commands that may be queued.
pub(in crate::kv) fn check(entry: &Entry<'_>) -> Result<(), Malformed> {
    let mut arguments = entry.arguments();
    let mut watches = Watches::parse(arguments.next().ok_or(Malformed)?)?;
    for watch in &mut watches {
        watch?;
    }
    if !watches.is_complete() {
        return Err(Malformed);
    }
    for bytes in arguments {
        let queued = Entry::parse(bytes)?;
        if !queued.is_well_formed() || matches!(queued.opcode, Opcode::Exec | Opcode::Version) {
            return Err(Malformed);
        }
    }
    Ok(())
}

impl Store {
    /// An upper bound of a transaction's reply, or `usize::MAX` where none is cheap to know.
    pub(super) fn transaction_bound(&self, entry: &Entry<'_>) -> Result<usize, Damage> {
        let mut written = 0;
        let mut bound: usize = ARRAY_HEAD;
        for bytes in entry.arguments().skip(1) {
            // What transactions write can come back in their reads.
            written += bytes.len();
            let Ok(queued) = Entry::parse(bytes) else {
                return Ok(SMALL);
            };
            bound += match queued.opcode {
                Opcode::Keys | Opcode::Scan | Opcode::MGet | Opcode::RandomKey => {
                    return Ok(usize::MAX);
                }
                // These make values larger than the bytes that come with them.
                Opcode::SetRange | Opcode::Rename | Opcode::RenameNx | Opcode::Copy => {
                    return Ok(usize::MAX);
                }
                Opcode::Get
                | Opcode::GetSet
                | Opcode::GetDel
                | Opcode::GetEx
                | Opcode::GetRange
                | Opcode::SubStr => SMALL + self.value_size(queued.argument(0))? + written,
                Opcode::Set if queued.argc() > 2 => {
                    SMALL + self.value_size(queued.argument(0))? + written
                }
                _ => SMALL,
            };
        }
        Ok(bound)
    }

    /// Executes a transaction: null when a watched key has changed, else the replies in an array.
    pub(super) fn transaction(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Damage> {
        if check(entry).is_err() {
            reply.error(MALFORMED);
            return Ok(());
        }
        let count = entry.argc() - 1;
        if reply.room() < ARRAY_HEAD + count * TOO_LARGE_SIZE {
            reply.error(TRANSACTION_TOO_LARGE);
            return Ok(());
        }
        let mut arguments = entry.arguments();
        let watches = Watches::parse(arguments.next().unwrap_or_default()).ok();
        for (key, version) in watches.into_iter().flatten().flatten() {
            if self.get(key, at.now)?.map_or(0, |found| found.body.version) != version {
                reply.null();
                return Ok(());
            }
        }
        reply.array(count);
        for (index, bytes) in arguments.enumerate() {
            let Ok(queued) = Entry::parse(bytes) else {
                return Ok(());
            };
            // Every command still to come can at least say that its reply did not fit.
            reply.keep_free((count - index - 1) * TOO_LARGE_SIZE);
            self.queued(at, &queued, reply)?;
        }
        reply.keep_free(0);
        Ok(())
    }

    /// Executes one queued command. One that is answered with an error for want of room, or because
    /// the transaction has done enough work before it, is not executed.
    fn queued(
        &mut self,
        at: &Moment,
        entry: &Entry<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Damage> {
        let start = reply.used();
        if self.is_spent() {
            reply.error(TOO_MUCH_WORK);
        } else if entry.opcode.is_read() {
            self.read(at, entry, reply)?;
        } else if reply.room() < self.reply_bound(entry)? {
            reply.error(REPLY_TOO_LARGE);
            return Ok(());
        } else {
            self.write(at, entry, reply)?;
        }
        if reply.overflowed() {
            reply.rewind(start);
            reply.error(REPLY_TOO_LARGE);
        }
        Ok(())
    }
}

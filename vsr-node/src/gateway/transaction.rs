//! `MULTI`, `EXEC` and `WATCH` of one connection.
//!
//! A transaction is one operation of the log: the commands are collected here in the form in which
//! they are packed, and `EXEC` sends them all at once. `WATCH` asks for the version of each key with
//! a linearizable query; `EXEC` carries keys and versions, and the machine, on every replica alike,
//! executes nothing when one of them has changed. So a watch needs no state outside this connection
//! and holds across a change of primary.

use crate::kv::{Opcode, codec::ARGUMENT_HEADER_SIZE};

/// The most keys one connection may watch.
const WATCHES_MAX: usize = 1024;

/// A queued command that the gateway answers itself, with its place among the queued commands.
#[derive(Debug)]
pub(super) struct Splice {
    /// How many commands were queued before it.
    pub(super) place: usize,
    /// Its reply, in the connection's dialect.
    pub(super) reply: Vec<u8>,
}

#[derive(Debug)]
struct Watch {
    key: Box<[u8]>,
    version: u64,
}

/// The state of one connection's transaction.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    open: bool,
    aborted: bool,
    /// Queued machine commands: size u32, then the packed command, each.
    queue: Vec<u8>,
    /// How many commands were queued, local ones included.
    count: usize,
    /// Local commands among them, each with its arguments packed like the others'.
    splices: Vec<Splice>,
    watches: Vec<Watch>,
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
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Queues a machine command. False when the transaction would exceed `size_max` bytes.
    pub(super) fn queue<'a>(
        &mut self,
        opcode: Opcode,
        arguments: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        size_max: usize,
    ) -> bool {
        let payload: usize = arguments
            .clone()
            .map(|bytes| bytes.len() + ARGUMENT_HEADER_SIZE)
            .sum();
        let size = payload + 4;
        let Ok(argc) = u16::try_from(arguments.len()) else {
            return false;
        };
        if self.size() + ARGUMENT_HEADER_SIZE + size > size_max {
            return false;
        }
        self.queue.extend_from_slice(&(size as u32).to_le_bytes());
        self.queue.extend_from_slice(&[opcode.byte(), 0]);
        self.queue.extend_from_slice(&argc.to_le_bytes());
        for argument in arguments {
            self.queue
                .extend_from_slice(&(argument.len() as u32).to_le_bytes());
            self.queue.extend_from_slice(argument);
        }
        self.count += 1;
        true
    }

    /// Queues a command that the gateway answers with `reply`. False when it is too much.
    pub(super) fn queue_local(&mut self, reply: Vec<u8>, size_max: usize) -> bool {
        if self.size() + reply.len() > size_max {
            return false;
        }
        self.splices.push(Splice {
            place: self.count,
            reply,
        });
        self.count += 1;
        true
    }

    fn size(&self) -> usize {
        let watches: usize = self.watches.iter().map(|watch| watch.key.len() + 12).sum();
        let splices: usize = self.splices.iter().map(|splice| splice.reply.len()).sum();
        self.queue.len() + watches + splices
    }

    /// The packed commands, in order.
    pub(super) fn queued(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.queue[..];
        core::iter::from_fn(move || {
            let (size, tail) = rest.split_first_chunk::<4>()?;
            let (command, tail) = tail.split_at(u32::from_le_bytes(*size) as usize);
            rest = tail;
            Some(command)
        })
    }

    /// The transaction is on its way; the replies given here stay until its own has come.
    pub(super) fn sent(&mut self) {
        *self = Self {
            splices: core::mem::take(&mut self.splices),
            ..Self::default()
        };
    }

    /// Takes the local commands' replies out.
    pub(super) fn take_splices(&mut self) -> Vec<Splice> {
        core::mem::take(&mut self.splices)
    }

    /// Whether a reply must be composed of the machine's and local ones.
    pub(super) fn has_splices(&self) -> bool {
        !self.splices.is_empty()
    }

    /// Adds a key to watch; its version comes later. False when there are too many.
    pub(super) fn watch(&mut self, key: &[u8]) -> bool {
        if self.watches.len() == WATCHES_MAX {
            return false;
        }
        self.watches.push(Watch {
            key: key.into(),
            version: 0,
        });
        true
    }

    /// Whether `count` more keys may be watched.
    pub(super) fn has_room_for(&self, count: usize) -> bool {
        self.watches.len() + count <= WATCHES_MAX
    }

    /// The version of the next key has come; none: it could not be had.
    pub(super) fn versioned(&mut self, version: Option<u64>) {
        match (version, self.watches.get_mut(self.known)) {
            (Some(version), Some(watch)) => watch.version = version,
            _ => self.watch_failed = true,
        }
        self.known += 1;
    }

    /// Whether versions are still on their way.
    pub(super) fn is_waiting_for_versions(&self) -> bool {
        self.known < self.watches.len()
    }

    /// Whether a watched key's version is not known, so that nothing may be executed.
    pub(super) const fn is_watch_failed(&self) -> bool {
        self.watch_failed
    }

    /// Keys and versions.
    pub(super) fn watches(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.watches
            .iter()
            .map(|watch| (&watch.key[..], watch.version))
    }

    /// `UNWATCH`.
    pub(super) fn unwatch(&mut self) {
        self.watches.clear();
        self.known = 0;
        self.watch_failed = false;
    }
}

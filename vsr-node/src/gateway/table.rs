//! The connections, by slot. A slot's generation tells a connection from those that had it before.

use super::channel::{Deliver, Kind, Outcome, Waiter};
use super::connection::Connection;
use crate::resp::{Writer, append_reply, element_size, split_array};

#[derive(Debug)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Connections with something new in their output or state.
    touched: Vec<u32>,
}

impl Table {
    /// How many connections are open.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a connection in and returns its slot.
    pub(super) fn insert(&mut self, connection: Connection) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                connection: None,
            });
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize].connection = Some(Box::new(connection));
        slot
    }

    /// Forgets the connection in `slot`; replies still to come for it are dropped.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Connection>> {
        let entry = self.slots.get_mut(slot as usize)?;
        let connection = entry.connection.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        Some(connection)
    }

    /// The connection in `slot`.
    pub(super) fn get(&self, slot: u32) -> Option<&Connection> {
        self.slots.get(slot as usize)?.connection.as_deref()
    }

    /// The connection in `slot`, to be changed.
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_deref_mut()
    }

    /// The connection in `slot`.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub(super) fn at(&mut self, slot: u32) -> &mut Connection {
        self.get_mut(slot)
            .expect("the caller knows that the connection is open")
    }

    /// Which of the connections that had `slot` has it now.
    pub(super) fn generation(&self, slot: u32) -> u32 {
        self.slots[slot as usize].generation
    }

    /// The connection in `slot`, if it is still the one of `generation`.
    #[inline]
    pub(super) fn current(&mut self, slot: u32, generation: u32) -> Option<&mut Connection> {
        let entry = self.slots.get_mut(slot as usize)?;
        (entry.generation == generation).then_some(())?;
        entry.connection.as_deref_mut()
    }

    /// All connections, by slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        (0..).zip(&self.slots).filter_map(|(slot, entry)| {
            entry
                .connection
                .as_deref()
                .map(|connection| (slot, connection))
        })
    }

    /// Lists the connection for flushing.
    pub(super) fn touch(&mut self, slot: u32) {
        if let Some(connection) = self.get_mut(slot)
            && !connection.touched
        {
            connection.touched = true;
            self.touched.push(slot);
        }
    }

    /// A connection that is listed for flushing; none are left when this returns none.
    pub(super) fn pop_touched(&mut self) -> Option<u32> {
        while let Some(slot) = self.touched.pop() {
            if let Some(connection) = self.get_mut(slot) {
                connection.touched = false;
                return Some(slot);
            }
        }
        None
    }

    /// The slots that are touched now, appended to `into`; they stay touched.
    pub(super) fn list_touched(&self, into: &mut Vec<u32>) {
        into.extend_from_slice(&self.touched);
    }
}

impl Deliver for Table {
    #[inline]
    fn deliver(&mut self, waiter: Waiter, outcome: Outcome<'_>) {
        let Some(connection) = self.current(waiter.slot, waiter.generation) else {
            return;
        };
        match (waiter.kind, outcome) {
            (Kind::Plain, Outcome::Reply(reply)) => connection.deliver(reply, b"$-1\r\n", false),
            (Kind::Silent, _) => connection.deliver(b"", b"", true),
            (Kind::Exec, Outcome::Reply(reply)) => connection.deliver(reply, b"*-1\r\n", false),
            (Kind::SplicedExec, Outcome::Reply(reply)) => deliver_spliced(connection, reply),
            (Kind::Version { last }, outcome) => deliver_version(connection, last, outcome),
            (_, Outcome::Failed(failure)) => {
                if waiter.kind == Kind::SplicedExec {
                    drop(connection.transaction.take_splices());
                }
                connection.deliver_with(|out, protocol| {
                    Writer::new(out, protocol).error(failure.text());
                });
            }
        }
        if !connection.touched {
            connection.touched = true;
            self.touched.push(waiter.slot);
        }
    }
}

fn deliver_version(connection: &mut Connection, last: bool, outcome: Outcome<'_>) {
    let version = match outcome {
        Outcome::Reply(reply) => version_in(reply),
        Outcome::Failed(_) => None,
    };
    connection.transaction.versioned(version);
    connection.deliver_with(|out, protocol| match outcome {
        _ if !last => {}
        Outcome::Reply(_) => Writer::new(out, protocol).ok(),
        Outcome::Failed(failure) => Writer::new(out, protocol).error(failure.text()),
    });
}

fn version_in(reply: &[u8]) -> Option<u64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    ::core::str::from_utf8(digits).ok()?.parse().ok()
}

/// Joins the machine's replies of a transaction with those that the gateway gave itself.
fn deliver_spliced(connection: &mut Connection, reply: &[u8]) {
    let splices = connection.transaction.take_splices();
    let Some((count, elements)) = split_array(reply) else {
        // Null: a watched key changed, nothing was executed, not even here.
        connection.deliver(reply, b"*-1\r\n", false);
        return;
    };
    connection.deliver_with(|out, protocol| {
        let before = out.len();
        Writer::new(out, protocol).array(count + splices.len());
        let mut rest = elements;
        let mut splices = splices.iter().peekable();
        for place in 0..count + splices.len() {
            if let Some(splice) = splices.next_if(|splice| splice.place == place) {
                out.extend_from_slice(&splice.reply);
                continue;
            }
            let size = element_size(rest).unwrap_or(0);
            let (element, after) = rest.split_at(size);
            if !append_reply(out, element, protocol, b"$-1\r\n") {
                out.truncate(before);
                Writer::new(out, protocol).error("ERR the reply was malformed");
                return;
            }
            rest = after;
        }
    });
}

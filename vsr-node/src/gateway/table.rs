//! The connections, by slot. A slot's generation tells a connection from those that had it before.

use super::GatewayOptions;
use super::channel::{Deliver, Kind, Outcome, Waiter};
use super::connection::Connection;
use super::memory::{KEEP, Plan, Pools, room};
use crate::resp::{Writer, append_reply, element_size, split_array};

#[derive(Debug)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// What the table takes for every connection that may come, in bytes.
pub(super) const PER_CONNECTION: usize = size_of::<Slot>() + 2 * size_of::<u32>();

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Connections with something new in their output or state.
    touched: Vec<u32>,
    pub(super) pools: Pools,
    /// A connection with more unread bytes is behind.
    output_soft_max: usize,
    /// The most connections that were open at once.
    most: usize,
}

impl Table {
    /// Room for `clients_max` connections, and the pages that they share.
    pub(super) fn new(options: &GatewayOptions, plan: &Plan) -> Self {
        let (clients_max, output_soft_max) = (options.clients_max, options.output_soft_max);
        let vacant = || Slot {
            generation: 0,
            connection: None,
        };
        Self {
            slots: room(clients_max, options.prefault, vacant),
            most: 0,
            free: Vec::with_capacity(clients_max),
            touched: Vec::with_capacity(clients_max),
            pools: Pools::new(plan, options.prefault),
            output_soft_max,
        }
    }

    /// How many connections are open.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The most that were open at once.
    pub(super) const fn most(&self) -> usize {
        self.most
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
        self.slots[slot as usize].connection = Some(connection);
        self.most = self.most.max(self.len());
        slot
    }

    /// Forgets the connection in `slot`, whose pages are given back; replies still to come for it are
    /// dropped.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let entry = self.slots.get_mut(slot as usize)?;
        let mut connection = entry.connection.take()?;
        connection.release(&mut self.pools);
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        Some(connection)
    }

    /// The connection in `slot` and the pages.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub(super) fn with_pools(&mut self, slot: u32) -> (&mut Connection, &mut Pools) {
        let connection = self.slots[slot as usize].connection.as_mut();
        let connection = connection.expect("the caller knows that the connection is open");
        (connection, &mut self.pools)
    }

    /// The connection in `slot`.
    pub(super) fn get(&self, slot: u32) -> Option<&Connection> {
        self.slots.get(slot as usize)?.connection.as_ref()
    }

    /// The connection in `slot`, to be changed.
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_mut()
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
        entry.connection.as_mut()
    }

    /// All connections, by slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        (0..).zip(&self.slots).filter_map(|(slot, entry)| {
            entry
                .connection
                .as_ref()
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
        let Some(entry) = self.slots.get_mut(waiter.slot as usize) else {
            return;
        };
        if entry.generation != waiter.generation {
            return;
        }
        let (Some(connection), pools) = (entry.connection.as_mut(), &mut self.pools) else {
            return;
        };
        match (waiter.kind, outcome) {
            (Kind::Plain, Outcome::Reply(reply)) => connection.deliver(reply, b"$-1\r\n", pools),
            (Kind::Silent, _) => connection.deliver_bytes(b"", pools),
            (Kind::Exec, Outcome::Reply(reply)) => connection.deliver(reply, b"*-1\r\n", pools),
            (Kind::SplicedExec, Outcome::Reply(reply)) => deliver_spliced(connection, reply, pools),
            (Kind::Version { last }, outcome) => deliver_version(connection, last, outcome, pools),
            (_, Outcome::Failed(failure)) => {
                if waiter.kind == Kind::SplicedExec {
                    connection.transaction.drop_splices(&mut pools.aside);
                }
                deliver_written(connection, pools, |writer| writer.error(failure.text()));
            }
        }
        if !connection.touched {
            connection.touched = true;
            self.touched.push(waiter.slot);
        }
    }

    fn reserve(&mut self, pages: usize) -> bool {
        self.pools.output.reserve(pages, KEEP)
    }

    fn unreserve(&mut self, pages: usize) {
        self.pools.output.unreserve(pages);
    }

    fn is_behind(&self, waiter: Waiter) -> bool {
        let entry = self.slots.get(waiter.slot as usize);
        entry
            .filter(|entry| entry.generation == waiter.generation)
            .and_then(|entry| entry.connection.as_ref())
            .is_some_and(|connection| connection.output.size() > self.output_soft_max)
    }
}

fn deliver_written(
    connection: &mut Connection,
    pools: &mut Pools,
    write: impl FnOnce(&mut Writer<'_>),
) {
    let mut scratch = core::mem::take(&mut pools.scratch);
    scratch.clear();
    write(&mut Writer::new(&mut scratch, connection.protocol));
    connection.deliver_bytes(&scratch, pools);
    pools.put_back(scratch);
}

fn deliver_version(
    connection: &mut Connection,
    last: bool,
    outcome: Outcome<'_>,
    pools: &mut Pools,
) {
    let version = match outcome {
        Outcome::Reply(reply) => version_in(reply),
        Outcome::Failed(_) => None,
    };
    let transaction = &mut connection.transaction;
    transaction.versioned(version, &mut pools.aside);
    match outcome {
        _ if !last => connection.deliver_bytes(b"", pools),
        Outcome::Reply(_) => deliver_written(connection, pools, |writer| writer.ok()),
        Outcome::Failed(failure) => {
            deliver_written(connection, pools, |writer| writer.error(failure.text()));
        }
    }
}

fn version_in(reply: &[u8]) -> Option<u64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    ::core::str::from_utf8(digits).ok()?.parse().ok()
}

/// Joins the machine's replies of a transaction with those that the gateway gave itself.
fn deliver_spliced(connection: &mut Connection, reply: &[u8], pools: &mut Pools) {
    let Some((count, elements)) = split_array(reply) else {
        // Null: a watched key changed, nothing was executed, not even here.
        connection.transaction.drop_splices(&mut pools.aside);
        return connection.deliver(reply, b"*-1\r\n", pools);
    };
    let mut scratch = core::mem::take(&mut pools.scratch);
    scratch.clear();
    if splice(connection, count, elements, pools, &mut scratch).is_none() {
        scratch.clear();
        Writer::new(&mut scratch, connection.protocol).error("ERR the reply was malformed");
    }
    connection.transaction.drop_splices(&mut pools.aside);
    connection.deliver_bytes(&scratch, pools);
    pools.put_back(scratch);
}

fn splice(
    connection: &mut Connection,
    count: usize,
    mut elements: &[u8],
    pools: &mut Pools,
    out: &mut Vec<u8>,
) -> Option<()> {
    let protocol = connection.protocol;
    let transaction = &mut connection.transaction;
    let total = count.checked_add(transaction.splices())?;
    Writer::new(out, protocol).array(total);
    for place in 0..total {
        if transaction.next_splice(&pools.aside) == Some(place) {
            transaction.take_splice(&mut pools.aside, out);
            continue;
        }
        let (element, after) = elements.split_at(element_size(elements)?);
        append_reply(out, element, protocol, b"$-1\r\n").then_some(())?;
        elements = after;
    }
    Some(())
}

//! Connections and lanes together, without sockets: bytes and frames in, bytes and frames out.
//!
//! The caller owns time and readiness: it reads into [`Core::read_space`], says [`Core::received`],
//! calls [`Core::turn`] when everything that was ready has been read, hands answers to
//! [`Core::on_frame`], and writes what the connections named by [`Core::pop_touched`] have to say.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use vsr_types::{Frame, Instant, message::PeerStatus};

use super::blocks::{Blocks, Input};
use super::channel::{Channel, ChannelLimits, Deliver as _};
use super::connection::{Connection, ReplyMode, Stall};
use super::lane::{Around, Lane, QUERY_START, REQUEST_START};
use super::memory::{INPUT_SLACK, LOCAL_ROOM, Plan, Pools, buffer, stale_query_size};
use super::table::Table;
use super::{Cluster, GatewayCounters, GatewayOptions, Sink};
use crate::kv::OperationBuilder;
use crate::resp::{Args, ParseLimits, Parsed, Protocol, parse};

/// The most arguments of a command: what a packed entry can count, and the name.
pub(super) const ARGUMENTS_MAX: usize = u16::MAX as usize + 1;

/// What is kept here for each connection that may come, in bytes.
pub(super) const PER_CONNECTION: usize = 2 * size_of::<(u32, u32)>() + size_of::<u32>();

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is answered or on its way.
    Done,
    /// It cannot be taken now.
    Stall(Stall),
    /// It is on its way, and the next one must wait.
    DoneThenStall(Stall),
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interest {
    /// Bytes from the client.
    pub(super) read: bool,
    /// Room in the socket.
    pub(super) write: bool,
    /// Nothing any more: close it.
    pub(super) finished: bool,
}

/// See the module's documentation.
pub(super) struct Core {
    pub(super) options: GatewayOptions,
    pub(super) cluster: Rc<dyn Cluster>,
    pub(super) table: Table,
    pub(super) lanes: Vec<Lane>,
    pub(super) counters: GatewayCounters,
    pub(super) started: Instant,
    pub(super) now: Instant,
    /// Whether this replica takes part in a cluster.
    pub(super) ready: bool,
    /// Storage for one query that is answered here.
    pub(super) stale_query: OperationBuilder<Vec<u8>>,
    pub(super) stale_reply: Vec<u8>,
    /// Answers go into the scratch memory and nowhere else.
    pub(super) composing_aside: bool,
    pub(super) blocks: Blocks,
    /// Connections (slot, generation) that wait for memory for an answer, the first come first.
    memory_line: VecDeque<(u32, u32)>,
    /// The first of that line is being served.
    serving_line: bool,
    pub(super) args: Args,
    resumable: Vec<u32>,
    unblocked: Vec<(u32, u32)>,
    next_number: u64,
}

impl core::fmt::Debug for Core {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Core")
            .field("connections", &self.table.len())
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A gateway without connections. `sink` makes the place where the answers for a lane arrive.
    pub(super) fn new(
        options: GatewayOptions,
        cluster: Rc<dyn Cluster>,
        mut sink: impl FnMut(usize) -> Rc<dyn Sink>,
        now: Instant,
    ) -> Self {
        assert!(options.lanes > 0, "connections need a lane");
        let timeout_ns = u64::try_from(options.client_timeout.as_nanos()).unwrap_or(u64::MAX);
        let plan = Plan::new(&options);
        let (clients_max, prefault) = (options.clients_max, options.prefault);
        let limits = |start| ChannelLimits {
            start,
            operation_max: options.operation_size_max,
            pack: options.pack_size.min(options.operation_size_max),
            timeout_ns,
            connections: clients_max,
            prefault,
        };
        let lanes = (0..options.lanes)
            .map(|index| {
                let number = 2 * index as u64;
                let log = Channel::new(limits(REQUEST_START), number, cluster.random() as u64);
                let queries =
                    Channel::new(limits(QUERY_START), number + 1, cluster.random() as u64);
                Lane::new(log, queries, sink(index))
            })
            .collect();
        Self {
            stale_query: OperationBuilder::new(buffer(stale_query_size(&options), prefault).into()),
            stale_reply: buffer(vsr_types::limits::REPLY_SIZE_MAX, prefault).into(),
            composing_aside: false,
            blocks: Blocks::new(&plan.blocks, clients_max, prefault),
            memory_line: VecDeque::with_capacity(clients_max),
            serving_line: false,
            table: Table::new(&options, &plan),
            options,
            cluster,
            lanes,
            counters: GatewayCounters::default(),
            started: now,
            now,
            ready: false,
            args: Args::with_capacity(ARGUMENTS_MAX),
            resumable: Vec::with_capacity(clients_max),
            unblocked: Vec::with_capacity(clients_max),
            next_number: 1,
        }
    }

    /// Takes a new connection in; none when all are taken.
    pub(super) fn accept(
        &mut self,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
        now: Instant,
    ) -> Option<u32> {
        if self.table.len() >= self.options.clients_max {
            self.counters.connections_refused += 1;
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        let lane = (number % self.options.lanes as u64) as usize;
        let mut connection = Connection::new(number, peer, local, lane, now);
        connection.authenticated = self.options.password.is_none();
        self.counters.connections += 1;
        self.counters.connected_clients += 1;
        Some(self.table.insert(connection))
    }

    /// The connection is broken or not wanted any more: whoever owns its socket closes it.
    pub(super) fn kill(&mut self, slot: u32) {
        if let Some(connection) = self.table.get_mut(slot) {
            connection.closing = true;
            connection.dead = true;
        }
    }

    /// Takes no further command from anybody; what is outstanding is still answered.
    pub(super) fn close_all(&mut self) {
        let slots: Vec<u32> = self.table.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.table.at(slot).closing = true;
            self.table.touch(slot);
        }
    }

    /// The connection's socket is gone.
    pub(super) fn closed(&mut self, slot: u32) {
        if let Some(mut connection) = self.table.remove(slot) {
            connection.input.release(&mut self.blocks);
            self.counters.connected_clients -= 1;
        }
    }

    /// Where the next bytes from the client go; none: it waits for memory, and is touched when it has
    /// some. Follow it with [`Self::received`] or [`Self::received_nothing`].
    pub(super) fn read_space(&mut self, slot: u32) -> Option<&mut [u8]> {
        let generation = self.table.generation(slot);
        let connection = self.table.at(slot);
        if let Some(class) = connection.input.lacks(&self.blocks) {
            let Some(block) = self.blocks.take(class) else {
                self.blocks.wait(class, slot, generation);
                connection.input.waiting = true;
                self.counters.memory_stalls += 1;
                return None;
            };
            connection.input.put(block, &mut self.blocks);
        }
        Some(connection.input.space(&mut self.blocks))
    }

    /// There was nothing to read.
    pub(super) fn received_nothing(&mut self, slot: u32) {
        self.table.at(slot).input.relax(&mut self.blocks);
    }

    /// `count` bytes were read into [`Self::read_space`]; 0: the client sends nothing more.
    pub(super) fn received(&mut self, slot: u32, count: usize, now: Instant) {
        self.now = now;
        let connection = self.table.at(slot);
        if count == 0 {
            connection.ended = true;
            connection.input.relax(&mut self.blocks);
            return;
        }
        self.ready = is_ready(self.cluster.report().status);
        self.counters.input_bytes += count as u64;
        connection.heard = now;
        if connection.input.is_empty() {
            connection.began = now;
        }
        connection.input.filled(count);
        self.process(slot);
    }

    /// What is to be written to the client, piece by piece.
    pub(super) fn unwritten(&self, slot: u32) -> impl Iterator<Item = &[u8]> {
        let pages = &self.table.pools.output;
        let connection = self.table.get(slot).into_iter();
        connection.flat_map(|connection| pages.pieces(&connection.output))
    }

    /// `count` bytes of it were written.
    pub(super) fn written(&mut self, slot: u32, count: usize, now: Instant) {
        self.counters.output_bytes += count as u64;
        let soft_max = self.options.output_soft_max;
        let (connection, pools) = self.table.with_pools(slot);
        pools.output.consume(&mut connection.output, count);
        connection.drained = now;
        if connection.output.is_empty() {
            connection.was_empty = now;
        }
        let resume =
            connection.stall == Some(Stall::Output) && connection.output.size() <= soft_max / 2;
        if resume {
            self.process(slot);
        }
    }

    /// Whether somebody who waits for memory to read into can have it: look for touched connections.
    pub(super) fn can_grant(&self) -> bool {
        self.blocks.can_grant()
    }

    /// What the connection waits for; finished when there is none.
    pub(super) fn interest(&self, slot: u32) -> Interest {
        let Some(connection) = self.table.get(slot) else {
            return Interest {
                read: false,
                write: false,
                finished: true,
            };
        };
        Interest {
            read: connection.wants_input(),
            write: !connection.output.is_empty(),
            finished: connection.is_finished(),
        }
    }

    /// A connection with something to write or a changed interest.
    pub(super) fn pop_touched(&mut self) -> Option<u32> {
        while let Some((block, slot, generation)) = self.blocks.next_grant() {
            match self.table.current(slot, generation) {
                Some(connection) => {
                    connection.input.put(block, &mut self.blocks);
                    self.table.touch(slot);
                }
                None => self.blocks.give_back(block),
            }
        }
        self.table.pop_touched()
    }

    /// Sends what the lanes have collected, and goes on with what waited for memory.
    pub(super) fn turn(&mut self, now: Instant) {
        self.now = now;
        let freed = self.table.pools.output.take_freed();
        for index in 0..self.lanes.len() {
            let (lane, mut around) = self.lane(index);
            if freed {
                lane.log.feed();
                lane.queries.feed();
            }
            if lane.turn(&mut around) {
                self.unblock(index);
            }
        }
        if freed {
            self.serve_line();
        }
    }

    /// Connections that waited for memory for an answer go on, in their order, as far as it goes.
    fn serve_line(&mut self) {
        self.serving_line = true;
        while self.has_local_room()
            && let Some((slot, generation)) = self.memory_line.pop_front()
        {
            let waits = self
                .table
                .current(slot, generation)
                .is_some_and(|connection| connection.stall == Some(Stall::Memory));
            if !waits {
                continue;
            }
            self.process(slot);
            let still = |connection: &Connection| connection.stall == Some(Stall::Memory);
            if self.table.get(slot).is_some_and(still) {
                // It wants more than there is yet, and stays the first.
                let last = self.memory_line.pop_back();
                self.memory_line.extend(last);
                self.memory_line.rotate_right(1);
                break;
            }
        }
        self.serving_line = false;
    }

    fn has_local_room(&self) -> bool {
        self.table.pools.output.available() >= LOCAL_ROOM
    }

    /// Whether [`Self::turn`] has something to do.
    pub(super) fn wants_turn(&self) -> bool {
        let mut channels = self
            .lanes
            .iter()
            .flat_map(|lane| [&lane.log, &lane.queries]);
        if channels.clone().any(Channel::is_ready) {
            return true;
        }
        let freed = self.table.pools.output.is_freed();
        freed && (!self.memory_line.is_empty() || channels.any(Channel::is_starved))
    }

    /// Whether anything is in flight, so that [`Self::deadline`] is needed.
    pub(super) fn next_deadline(&self) -> Instant {
        let earliest = self.lanes.iter().map(Lane::next_deadline).min();
        earliest.unwrap_or(Instant::FAR_FUTURE)
    }

    /// Retries and gives up what is due.
    pub(super) fn deadline(&mut self, now: Instant) {
        self.now = now;
        for index in 0..self.lanes.len() {
            let (lane, mut around) = self.lane(index);
            lane.deadline(&mut around);
            self.unblock(index);
        }
        self.resume_touched();
    }

    /// A frame for lane `index` came from the cluster.
    pub(super) fn on_frame(&mut self, index: usize, frame: &Frame<'_>, now: Instant) {
        self.now = now;
        let (lane, mut around) = self.lane(index);
        lane.on_frame(frame, &mut around);
        self.resume_touched();
    }

    /// Another replica leads: what is in flight on the lane is sent again at once.
    pub(super) fn on_view(&mut self, index: usize, now: Instant) {
        self.now = now;
        let (lane, mut around) = self.lane(index);
        lane.on_view(&mut around);
    }

    /// Kills connections that do not read, do not finish what they began, or are idle for too long;
    /// sooner when others wait for the memory that they hold.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.now = now;
        self.kill_who_holds_lanes_up();
        let pressed = !self.memory_line.is_empty()
            || self
                .lanes
                .iter()
                .any(|lane| lane.log.is_starved() || lane.queries.is_starved());
        let mut slots = core::mem::take(&mut self.resumable);
        slots.extend(self.table.iter().map(|(slot, _)| slot));
        for slot in slots.drain(..) {
            let connection = self.table.at(slot);
            if connection.output.is_empty() {
                connection.drained = now;
                connection.was_empty = now;
            }
            if has_expired(connection, &self.options, &self.blocks, pressed, now) {
                self.counters.connections_timed_out += 1;
                self.kill(slot);
            }
        }
        self.resumable = slots;
    }

    /// A lane waits until a client has read what it asked for, but not for ever.
    fn kill_who_holds_lanes_up(&mut self) {
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            for held_up in [lane.log.held_up(), lane.queries.held_up()] {
                let Some((since, waiter)) = held_up else {
                    continue;
                };
                let patience = self.options.contended_timeout;
                if self.now.since(since) > patience && self.table.is_behind(waiter) {
                    self.counters.connections_timed_out += 1;
                    self.kill(waiter.slot);
                }
            }
        }
    }

    /// Ends all sessions' attachments.
    pub(super) fn detach(&mut self) {
        for lane in &mut self.lanes {
            lane.detach(&*self.cluster);
        }
    }

    fn lane(&mut self, index: usize) -> (&mut Lane, Around<'_>) {
        let around = Around {
            cluster: &*self.cluster,
            deliver: &mut self.table,
            counters: &mut self.counters,
            now: self.now,
        };
        (&mut self.lanes[index], around)
    }

    /// Connections that were answered go on with what they had to leave unexecuted.
    fn resume_touched(&mut self) {
        let mut resumable = core::mem::take(&mut self.resumable);
        self.table.list_touched(&mut resumable);
        for slot in resumable.drain(..) {
            let Some(connection) = self.table.get_mut(slot) else {
                continue;
            };
            if connection.stall == Some(Stall::Quiet) && connection.outstanding() == 0 {
                self.process(slot);
            }
        }
        self.resumable = resumable;
    }

    /// A lane's channel was emptied into a flight: those that did not fit try again, in their order.
    fn unblock(&mut self, index: usize) {
        let mut unblocked = core::mem::take(&mut self.unblocked);
        let lane = &mut self.lanes[index];
        for channel in [&mut lane.log, &mut lane.queries] {
            channel.take_blocked(&mut unblocked);
        }
        for (slot, generation) in unblocked.drain(..) {
            let blocked = self
                .table
                .current(slot, generation)
                .is_some_and(|connection| connection.stall == Some(Stall::Lane));
            if blocked {
                self.process(slot);
            }
        }
        self.unblocked = unblocked;
    }

    /// Executes the connection's commands as far as possible.
    fn process(&mut self, slot: u32) {
        let mut input = core::mem::take(&mut self.table.at(slot).input);
        let mut args = core::mem::take(&mut self.args);
        let mut blocks = core::mem::take(&mut self.blocks);
        self.process_input(slot, &mut input, &blocks, &mut args);
        input.relax(&mut blocks);
        self.blocks = blocks;
        self.args = args;
        let generation = self.table.generation(slot);
        let connection = self.table.at(slot);
        connection.input = input;
        if connection.stall == Some(Stall::Memory) {
            self.memory_line.push_back((slot, generation));
            self.counters.memory_stalls += 1;
        }
        self.table.touch(slot);
    }

    /// Why the connection's next command cannot be executed now, whatever it is.
    fn stall(&self, connection: &Connection) -> Option<Stall> {
        let pools = &self.table.pools;
        let outstanding = connection.outstanding() > 0;
        if connection.output.size() > self.options.output_soft_max {
            Some(Stall::Output)
        } else if outstanding
            && (connection.is_holding_too_much() || pools.aside.available() < LOCAL_ROOM)
        {
            Some(Stall::Quiet)
        } else if !self.has_local_room() || !self.memory_line.is_empty() && !self.serving_line {
            // With answers outstanding it goes on when they have come.
            Some(if outstanding {
                Stall::Quiet
            } else {
                Stall::Memory
            })
        } else {
            None
        }
    }

    fn process_input(&mut self, slot: u32, input: &mut Input, blocks: &Blocks, args: &mut Args) {
        loop {
            let stall = self
                .table
                .get(slot)
                .and_then(|connection| self.stall(connection));
            let connection = self.table.at(slot);
            if connection.closing || !input.is_worth_parsing() {
                connection.stall = None;
                return;
            }
            connection.stall = stall;
            if stall.is_some() {
                return;
            }
            let limits = ParseLimits {
                arguments_max: ARGUMENTS_MAX,
                command_size_max: self.options.command_size_max,
                authenticated: connection.authenticated,
            };
            match parse(input.unread(blocks), &limits, args) {
                Ok(Parsed::Command { consumed }) => {
                    if !self.take_command(slot, input, blocks, args, consumed) {
                        return;
                    }
                }
                Ok(Parsed::Incomplete { needed }) => {
                    input.needed = needed;
                    if input.unread(blocks).len() >= self.options.command_size_max + INPUT_SLACK {
                        self.protocol_error(slot, crate::resp::ProtocolError::InvalidBulkLength);
                    }
                    return;
                }
                Err(error) => return self.protocol_error(slot, error),
            }
        }
    }

    /// Executes one parsed command; false when the connection must wait.
    #[inline]
    fn take_command(
        &mut self,
        slot: u32,
        input: &mut Input,
        blocks: &Blocks,
        args: &Args,
        consumed: usize,
    ) -> bool {
        if args.is_empty() {
            input.consume(consumed);
            return true;
        }
        let step = self.execute(slot, super::commands::Call::new(args, input.unread(blocks)));
        let now = self.now;
        let connection = self.table.at(slot);
        if let Step::Stall(stall) = step {
            connection.stall = Some(stall);
            return false;
        }
        match connection.reply_mode {
            ReplyMode::On | ReplyMode::Off => {}
            ReplyMode::SkipNext => connection.reply_mode = ReplyMode::Skip,
            ReplyMode::Skip => connection.reply_mode = ReplyMode::On,
        }
        input.consume(consumed);
        connection.began = now;
        self.counters.received_commands += 1;
        if let Step::DoneThenStall(stall) = step {
            connection.stall = Some(stall);
            return false;
        }
        true
    }

    fn protocol_error(&mut self, slot: u32, error: crate::resp::ProtocolError) {
        self.counters.protocol_errors += 1;
        self.answer(slot, |out, _| error.write(out));
        self.table.at(slot).closing = true;
    }

    /// Gives an answer of the gateway's own, written by `write`, in the connection's order.
    pub(super) fn answer(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>, Protocol)) {
        let (connection, pools) = self.table.with_pools(slot);
        let protocol = connection.protocol;
        if self.composing_aside {
            return write(&mut pools.scratch, protocol);
        }
        let mut scratch = core::mem::take(&mut pools.scratch);
        scratch.clear();
        write(&mut scratch, protocol);
        if scratch.len() > Pools::SCRATCH {
            scratch = Vec::with_capacity(Pools::SCRATCH);
            scratch.extend_from_slice(b"-ERR the answer is larger than a reply may be\r\n");
        }
        let answered = connection.answer(&scratch, pools)
            || connection.answer(
                b"-ERR no memory is left for the answer, try again\r\n",
                pools,
            );
        if !answered {
            connection.overrun();
            self.counters.connections_overrun += 1;
        }
        pools.put_back(scratch);
    }
}

/// Whether the connection is to be closed: it holds what others wait for, or is silent for too long.
fn has_expired(
    connection: &Connection,
    options: &GatewayOptions,
    blocks: &Blocks,
    pressed: bool,
    now: Instant,
) -> bool {
    let for_longer = |since: Instant, limit| now.since(since) > limit;
    let unread = !connection.output.is_empty();
    let stalled = connection.stall.is_some() || connection.input.waiting;
    let unfinished = !connection.input.is_empty() && !stalled;
    let half_open = unfinished || !connection.authenticated;
    let in_the_way = unfinished && connection.input.is_in_the_way(blocks);
    let is_deaf = for_longer(connection.drained, options.slow_reader_timeout)
        || pressed
            && (for_longer(connection.drained, options.contended_timeout)
                || for_longer(connection.was_empty, options.slow_reader_timeout));
    unread && is_deaf
        || in_the_way && for_longer(connection.began, options.contended_timeout)
        || half_open && for_longer(connection.heard, options.half_open_timeout)
        || connection.outstanding() == 0
            && options
                .idle_timeout
                .is_some_and(|timeout| for_longer(connection.heard, timeout))
}

/// Whether a replica of this status takes commands: in a view change they wait, while blank or
/// recovering there is nothing to answer from.
const fn is_ready(status: PeerStatus) -> bool {
    matches!(status, PeerStatus::Normal | PeerStatus::ViewChange)
}

#[cfg(test)]
mod tests;

//! Connections and lanes together, without sockets: bytes and frames in, bytes and frames out.
//!
//! The caller owns time and readiness: it reads into [`Core::read_space`], says [`Core::received`],
//! calls [`Core::turn`] when everything that was ready has been read, hands answers to
//! [`Core::on_frame`], and writes what the connections named by [`Core::pop_touched`] have to say.

use std::rc::Rc;

use vsr_types::{Frame, Instant, message::PeerStatus};

use super::channel::{Channel, ChannelLimits};
use super::connection::{Connection, Input, ReplyMode, Stall};
use super::lane::{Around, Lane, QUERY_START, REQUEST_START};
use super::table::Table;
use super::{Cluster, GatewayCounters, GatewayOptions, Sink};
use crate::kv::OperationBuilder;
use crate::resp::{Args, ParseLimits, Parsed, parse};

/// The most arguments of a command: what a packed entry can count, and the name.
const ARGUMENTS_MAX: usize = u16::MAX as usize + 1;
/// Room beyond the largest command for the line that announces more than that.
const INPUT_SLACK: usize = 64;

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
    args: Args,
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
        let limits = |start| ChannelLimits {
            start,
            operation_max: options.operation_size_max,
            pack: options.pack_size.min(options.operation_size_max),
            timeout_ns,
        };
        let lanes = (0..options.lanes)
            .map(|index| {
                let log = Channel::new(limits(REQUEST_START), cluster.random() as u64);
                let queries = Channel::new(limits(QUERY_START), cluster.random() as u64);
                Lane::new(log, queries, sink(index))
            })
            .collect();
        Self {
            stale_query: OperationBuilder::new(vec![0; options.command_size_max + 64]),
            stale_reply: vec![0; vsr_types::limits::REPLY_SIZE_MAX],
            options,
            cluster,
            table: Table::default(),
            lanes,
            counters: GatewayCounters::default(),
            started: now,
            now,
            ready: false,
            args: Args::new(),
            resumable: Vec::new(),
            unblocked: Vec::new(),
            next_number: 1,
        }
    }

    /// Takes a new connection in; none when all are taken.
    pub(super) fn accept(&mut self, peer: String, local: String, now: Instant) -> Option<u32> {
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
        if self.table.remove(slot).is_some() {
            self.counters.connected_clients -= 1;
        }
    }

    /// Where the next bytes from the client go.
    pub(super) fn read_space(&mut self, slot: u32) -> &mut [u8] {
        let size_max = self.options.command_size_max + INPUT_SLACK;
        self.table.at(slot).input.space(size_max)
    }

    /// `count` bytes were read into [`Self::read_space`]; 0: the client sends nothing more.
    pub(super) fn received(&mut self, slot: u32, count: usize, now: Instant) {
        self.now = now;
        if count == 0 {
            self.table.at(slot).ended = true;
            return;
        }
        self.ready = is_ready(self.cluster.report().status);
        self.counters.input_bytes += count as u64;
        let connection = self.table.at(slot);
        connection.heard = now;
        connection.input.filled(count);
        self.process(slot);
    }

    /// What is to be written to the client.
    pub(super) fn unwritten(&self, slot: u32) -> &[u8] {
        self.table
            .get(slot)
            .map_or(&[], |connection| connection.output.unwritten())
    }

    /// `count` bytes of it were written.
    pub(super) fn written(&mut self, slot: u32, count: usize, now: Instant) {
        self.counters.output_bytes += count as u64;
        let soft_max = self.options.output_soft_max;
        let connection = self.table.at(slot);
        connection.output.written(count);
        connection.drained = now;
        let resume =
            connection.stall == Some(Stall::Output) && connection.output.size() <= soft_max / 2;
        if resume {
            self.process(slot);
        }
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
            write: connection.output.size() > 0,
            finished: connection.is_finished()
                || connection.output.size() > self.options.output_hard_max,
        }
    }

    /// A connection with something to write or a changed interest.
    pub(super) fn pop_touched(&mut self) -> Option<u32> {
        self.table.pop_touched()
    }

    /// Sends what the lanes have collected.
    pub(super) fn turn(&mut self, now: Instant) {
        self.now = now;
        for index in 0..self.lanes.len() {
            let (lane, mut around) = self.lane(index);
            if lane.turn(&mut around) {
                self.unblock(index);
            }
        }
    }

    /// Whether [`Self::turn`] has something to send.
    pub(super) fn wants_turn(&self) -> bool {
        self.lanes.iter().any(|lane| {
            (!lane.log.is_flying() && !lane.log.is_empty())
                || (!lane.queries.is_flying() && !lane.queries.is_empty())
        })
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

    /// Kills connections that do not read, do not finish what they began, or are idle for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.now = now;
        let slots: Vec<u32> = self.table.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let connection = self.table.at(slot);
            let idle = now.since(connection.heard);
            let unread = connection.output.size() > 0;
            let unfinished = !connection.input.unread().is_empty() && connection.stall.is_none();
            let half_open = unfinished || !connection.authenticated;
            let expired = (unread
                && now.since(connection.drained) > self.options.slow_reader_timeout)
                || (half_open && idle > self.options.half_open_timeout)
                || (connection.outstanding() == 0
                    && self
                        .options
                        .idle_timeout
                        .is_some_and(|timeout| idle > timeout));
            if expired {
                self.counters.connections_timed_out += 1;
                self.kill(slot);
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
        self.process_input(slot, &mut input, &mut args);
        self.args = args;
        self.table.at(slot).input = input;
        self.table.touch(slot);
    }

    fn process_input(&mut self, slot: u32, input: &mut Input, args: &mut Args) {
        loop {
            let soft_max = self.options.output_soft_max;
            let connection = self.table.at(slot);
            connection.stall = if connection.output.size() > soft_max {
                Some(Stall::Output)
            } else if connection.is_holding_too_much() {
                Some(Stall::Quiet)
            } else {
                None
            };
            if connection.stall.is_some() || connection.closing || !input.is_worth_parsing() {
                return;
            }
            let limits = ParseLimits {
                arguments_max: ARGUMENTS_MAX,
                command_size_max: self.options.command_size_max,
                authenticated: connection.authenticated,
            };
            match parse(input.unread(), &limits, args) {
                Ok(Parsed::Command { consumed }) => {
                    if !self.take_command(slot, input, args, consumed) {
                        return;
                    }
                }
                Ok(Parsed::Incomplete { needed }) => {
                    input.needed = needed;
                    if input.is_full(self.options.command_size_max + INPUT_SLACK) {
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
    fn take_command(&mut self, slot: u32, input: &mut Input, args: &Args, consumed: usize) -> bool {
        if args.is_empty() {
            input.consume(consumed);
            return true;
        }
        let step = self.execute(slot, super::commands::Call::new(args, input.unread()));
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
        self.counters.received_commands += 1;
        if let Step::DoneThenStall(stall) = step {
            connection.stall = Some(stall);
            return false;
        }
        true
    }

    fn protocol_error(&mut self, slot: u32, error: crate::resp::ProtocolError) {
        self.counters.protocol_errors += 1;
        let connection = self.table.at(slot);
        connection.answer(|out, _| error.write(out));
        connection.closing = true;
    }
}

/// Whether a replica of this status takes commands: in a view change they wait, while blank or
/// recovering there is nothing to answer from.
const fn is_ready(status: PeerStatus) -> bool {
    matches!(status, PeerStatus::Normal | PeerStatus::ViewChange)
}

#[cfg(test)]
mod tests;

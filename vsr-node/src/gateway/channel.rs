//! One way into the cluster: commands fill the next request while the one before is in flight.
//!
//! Both requests are buffers of a fixed size that change places. A command is copied once, from the
//! connection's input buffer into its place in the request that will be sent.

use vsr_types::{Checksum, Instant};

use super::GatewayCounters;
use super::memory::{
    COMMANDS_MAX, CONNECTIONS_MAX, REPLY_MAX, SPLICED_MAX, SPLICES_MAX, buffer, room,
};
use super::pages::PAGE;
use crate::kv::{Opcode, OperationBuilder, ReplyReader, ReplySize};

/// How a command's reply is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is.
    Plain,
    /// As it is, but nobody wants to see it (`CLIENT REPLY`).
    Silent,
    /// The result of a transaction: an array, or null when a watched key changed.
    Exec,
    /// A transaction in which the gateway answers some commands itself.
    SplicedExec,
    /// The version of a watched key; only the last one of a `WATCH` is answered, with OK.
    Version {
        /// Whether it is that one.
        last: bool,
    },
}

/// Who waits for the reply to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    /// The connection's slot.
    pub(super) slot: u32,
    /// Which of the connections that had this slot.
    pub(super) generation: u32,
    pub(super) kind: Kind,
}

/// Why commands are answered without the cluster's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No answer in time.
    Down,
    /// The cluster's queues stayed full.
    Busy,
    /// This replica has no state to answer from.
    Loading,
    /// The cluster has stopped for good.
    Halted,
    /// No op number is left.
    UsedUp,
    /// The session was lost.
    Unknown,
    /// The cluster refuses the operation as malformed.
    Malformed,
    /// The operation is larger than the cluster takes.
    TooLarge,
    /// The reply makes no sense.
    BadReply,
}

impl Failure {
    /// The error reply, without the leading `-`.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Down => {
                "CLUSTERDOWN The cluster is down: no quorum has answered in time; a write in flight may still be executed"
            }
            Self::Busy => {
                "BUSY The cluster's queues are full, try again later; a write in flight may still be executed"
            }
            Self::Loading => {
                "LOADING This replica is not part of a cluster yet or is recovering its state"
            }
            Self::Halted => "CLUSTERDOWN The cluster has stopped accepting operations",
            Self::UsedUp => {
                "CLUSTERDOWN The op numbers are used up (--op-max): nothing can be written any more, reads go on"
            }
            Self::Unknown => {
                "UNKNOWN The session was lost: whether the command was executed is not known; check before you repeat it"
            }
            Self::Malformed => "ERR the cluster refuses the operation as malformed",
            Self::TooLarge => "ERR the command is larger than a batch of this cluster may be",
            Self::BadReply => "ERR the cluster's reply makes no sense",
        }
    }
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// The machine's reply, RESP3.
    Reply(&'a [u8]),
    /// None will come.
    Failed(Failure),
}

/// Where replies go: the connections.
pub(super) trait Deliver {
    /// `waiter`'s command is answered.
    fn deliver(&mut self, waiter: Waiter, outcome: Outcome<'_>);
    /// Promises `pages` for what will be delivered; false when there are not enough now.
    fn reserve(&mut self, pages: usize) -> bool;
    /// Takes the promise back.
    fn unreserve(&mut self, pages: usize);
    /// Whether `waiter`'s client has not read what it was sent before.
    fn is_behind(&self, waiter: Waiter) -> bool;
}

/// How large the replies to a request may become.
#[derive(Clone, Copy, Debug, Default)]
struct Want {
    /// The sum over the commands whose replies are short.
    short: usize,
    /// Replies given here that will be joined with the machine's.
    spliced: usize,
    /// Some command's reply may be as large as a reply may be.
    large: bool,
    /// And contain nulls, which RESP2 writes with more bytes.
    nested: bool,
    /// How many connections have a part in it.
    connections: usize,
}

/// No short reply is longer, nor any error, in bytes.
const SHORT: usize = 256;

impl Want {
    /// Takes in a command with `argc` arguments.
    #[inline]
    fn add(&mut self, opcode: Opcode, argc: u16, kind: Kind, newcomer: bool) {
        self.short += SHORT;
        match opcode.reply_size(argc) {
            ReplySize::Short => {}
            ReplySize::Large => self.large = true,
            ReplySize::Nested => {
                self.large = true;
                self.nested = true;
            }
        }
        if kind == Kind::SplicedExec {
            self.spliced += SPLICES_MAX;
        }
        self.connections += usize::from(newcomer);
    }

    /// How many pages the replies fill at most: every connection's may end in a page of its own.
    fn pages(&self) -> usize {
        let large = match (self.large, self.nested) {
            (true, true) => REPLY_MAX,
            (true, false) => vsr_types::limits::REPLY_SIZE_MAX,
            (false, _) => 0,
        };
        // Either the machine answers, or every command fails with a short text.
        let bytes = large.max(self.short).min(REPLY_MAX) + self.spliced;
        bytes.div_ceil(PAGE) + self.connections
    }
}

/// Whether a landed operation was executed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// Yes, or nobody waits for the rest.
    All,
    /// The replies of the first entries filled the reply; the rest must be sent again.
    Rest,
}

/// What bounds a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChannelLimits {
    /// Bytes in front of the operation in its frame.
    pub(super) start: usize,
    /// The largest operation, in bytes.
    pub(super) operation_max: usize,
    /// An operation of more bytes takes no further command.
    pub(super) pack: usize,
    /// How long an operation may be unanswered before its commands fail, in nanoseconds.
    pub(super) timeout_ns: u64,
    /// The most connections.
    pub(super) connections: usize,
    /// Whether memory is touched when it is allocated.
    pub(super) prefault: bool,
}

/// The first retry comes after this, each later one after twice the time, up to the second figure.
const RETRY_NS: u64 = 100_000_000;
const RETRY_MAX_NS: u64 = 1_000_000_000;
/// The same after a busy reject.
const BUSY_NS: u64 = 1_000_000;
const BUSY_MAX_NS: u64 = 100_000_000;

#[derive(Debug)]
struct Flight {
    bytes: Box<[u8]>,
    /// How many bytes of them are the frame; 0: nothing is in flight.
    size: usize,
    waiters: Vec<Waiter>,
    /// The commands have been answered with an error; only the number is still taken.
    abandoned: bool,
    checksum: Checksum,
    expires: Instant,
    resend: Instant,
    /// Since when its rest has waited for memory; none: it does not.
    grounded: Option<Instant>,
    want: Want,
    /// How many pages are promised for its replies.
    reserved: usize,
    retry_ns: u64,
    busy_ns: u64,
    /// What the cluster last said about it.
    failure: Failure,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Channel {
    limits: ChannelLimits,
    filling: OperationBuilder<Box<[u8]>>,
    waiting: Vec<Waiter>,
    /// What the replies to what is filled will need.
    want: Want,
    /// Tells this filling from all others of all channels.
    filling_number: u64,
    /// There was no memory for the replies; nothing leaves before some is free.
    starved: bool,
    flight: Flight,
    /// Nothing was answered in time: commands fail at once until something is.
    down: Option<Failure>,
    /// Connections (slot, generation) with a command that did not fit.
    blocked: Vec<(u32, u32)>,
    jitter: u64,
    /// The most commands that waited at once, and the most bytes that one request had.
    most: (usize, usize),
}

impl Waiter {
    /// Whom nothing is ever told.
    const fn nobody() -> Self {
        Self {
            slot: u32::MAX,
            generation: 0,
            kind: Kind::Silent,
        }
    }
}

impl Channel {
    /// What is kept for each connection that may be held up, in bytes.
    pub(super) const PER_CONNECTION: usize = size_of::<(u32, u32)>();

    /// How many of its two requests are in use.
    pub(super) fn in_use(&self) -> usize {
        usize::from(!self.is_empty()) + usize::from(self.is_flying())
    }

    /// The most commands that waited at once, and the most bytes of one operation.
    pub(super) const fn most(&self) -> (usize, usize) {
        self.most
    }

    /// An empty channel, number `number` of the gateway's; `seed` is for the jitter of its retries.
    pub(super) fn new(limits: ChannelLimits, number: u64, seed: u64) -> Self {
        let buffer = || buffer(limits.start + limits.operation_max, limits.prefault);
        let waiters = || room(COMMANDS_MAX, limits.prefault, Waiter::nobody);
        Self {
            limits,
            filling: OperationBuilder::at(buffer(), limits.start),
            waiting: waiters(),
            most: (0, 0),
            want: Want::default(),
            filling_number: (number + 1) << 48,
            starved: false,
            flight: Flight {
                bytes: buffer(),
                size: 0,
                waiters: waiters(),
                grounded: None,
                want: Want::default(),
                reserved: 0,
                abandoned: false,
                checksum: Checksum::default(),
                expires: Instant::FAR_FUTURE,
                resend: Instant::FAR_FUTURE,
                retry_ns: RETRY_NS,
                busy_ns: BUSY_NS,
                failure: Failure::Down,
            },
            down: None,
            blocked: Vec::with_capacity(limits.connections),
            jitter: seed | 1,
        }
    }

    /// Why commands fail at once, if they do.
    pub(super) const fn down(&self) -> Option<Failure> {
        self.down
    }

    /// Whether no command waits to be sent.
    pub(super) const fn is_empty(&self) -> bool {
        self.filling.is_empty()
    }

    /// Whether a request is unanswered.
    pub(super) const fn is_flying(&self) -> bool {
        self.flight.size > 0
    }

    /// How many commands wait for an answer.
    pub(super) fn depth(&self) -> usize {
        self.waiting.len() + self.flight.waiters.len()
    }

    /// A number that no other filling of any channel has.
    pub(super) const fn filling_number(&self) -> u64 {
        self.filling_number
    }

    /// Packs one entry for `waiter`, whose connection has no other in this filling if `newcomer`.
    ///
    /// # Errors
    /// [`Rejected`] with nothing changed.
    #[inline]
    pub(super) fn push<'a>(
        &mut self,
        opcode: Opcode,
        arguments: impl Iterator<Item = &'a [u8]>,
        waiter: Waiter,
        newcomer: bool,
    ) -> Result<(), Rejected> {
        self.push_with(opcode, waiter, newcomer, |builder| {
            for argument in arguments {
                builder.argument(argument);
            }
        })
    }

    /// As [`Self::push`], for entries that are more than a list of arguments.
    #[inline]
    pub(super) fn push_with(
        &mut self,
        opcode: Opcode,
        waiter: Waiter,
        newcomer: bool,
        write: impl FnOnce(&mut OperationBuilder<Box<[u8]>>),
    ) -> Result<(), Rejected> {
        let empty = self.filling.is_empty();
        let packed = self.limits.operation_max - self.filling.room();
        if !empty && (packed >= self.limits.pack || self.is_crowded(1, newcomer)) {
            return Err(Rejected::Full);
        }
        self.filling.begin(opcode);
        write(&mut self.filling);
        let argc = self.filling.argc();
        if self.filling.end().is_err() {
            return Err(if empty {
                Rejected::TooLarge
            } else {
                Rejected::Full
            });
        }
        self.waiting.push(waiter);
        let size = self.limits.operation_max - self.filling.room();
        let (commands, bytes) = self.most;
        self.most = (commands.max(self.depth()), bytes.max(size));
        self.want.add(opcode, argc, waiter.kind, newcomer);
        Ok(())
    }

    /// Whether `count` more commands, or another connection, are too many.
    #[inline]
    const fn is_crowded(&self, count: usize, newcomer: bool) -> bool {
        self.waiting.len() + count > COMMANDS_MAX
            || newcomer && self.want.connections >= CONNECTIONS_MAX
            || self.want.spliced >= SPLICED_MAX
    }

    /// Whether `count` entries of `size` bytes in all, with their argument's headers, may be pushed.
    pub(super) fn has_room_for(&self, count: usize, size: usize) -> bool {
        let used = self.limits.operation_max - self.filling.room();
        self.is_empty() && size <= self.filling.room()
            || used + size < self.limits.pack && !self.is_crowded(count, true)
    }

    /// Whether something waits to be sent and may be tried.
    pub(super) fn is_ready(&self) -> bool {
        let waits = self.is_grounded() || !self.is_flying() && !self.is_empty();
        waits && !self.starved
    }

    /// Whether there was no memory for the replies.
    pub(super) const fn is_starved(&self) -> bool {
        self.starved
    }

    /// There is more memory than before.
    pub(super) const fn feed(&mut self) {
        self.starved = false;
    }

    /// Has memory promised for the replies to what is filled. False: not now.
    pub(super) fn board(&mut self, deliver: &mut dyn Deliver) -> bool {
        let pages = self.want.pages();
        self.starved = !deliver.reserve(pages);
        if !self.starved {
            self.flight.reserved += pages;
        }
        !self.starved
    }

    /// The same for the rest of the flight. It waits, too, for the client that is next to be answered:
    /// a client that asks for more than it reads must not fill the memory.
    pub(super) fn board_rest(&mut self, now: Instant, deliver: &mut dyn Deliver) -> bool {
        let pages = self.flight.want.pages();
        let behind = self
            .flight
            .waiters
            .first()
            .is_some_and(|waiter| deliver.is_behind(*waiter));
        self.starved = behind || !deliver.reserve(pages);
        if self.starved {
            self.flight.grounded.get_or_insert(now);
            self.flight.expires = Instant::FAR_FUTURE;
            self.flight.resend = Instant::FAR_FUTURE;
            return false;
        }
        self.flight.grounded = None;
        self.flight.reserved += pages;
        true
    }

    /// Whether the rest of a flight waits for memory, and nothing is under way.
    pub(super) const fn is_grounded(&self) -> bool {
        self.flight.grounded.is_some()
    }

    /// Since when the rest of a flight has waited, and for whom.
    pub(super) fn held_up(&self) -> Option<(Instant, Waiter)> {
        Some((self.flight.grounded?, *self.flight.waiters.first()?))
    }

    /// The replies are delivered now, or never.
    fn unreserve(&mut self, deliver: &mut dyn Deliver) {
        deliver.unreserve(core::mem::take(&mut self.flight.reserved));
    }

    /// Remembers that a connection has a command which did not fit.
    pub(super) fn block(&mut self, slot: u32, generation: u32) {
        if self.blocked.last() != Some(&(slot, generation)) {
            self.blocked.push((slot, generation));
        }
    }

    /// Moves the connections that may try again into `into`.
    pub(super) fn take_blocked(&mut self, into: &mut Vec<(u32, u32)>) {
        into.append(&mut self.blocked);
    }

    /// What was filled is now in flight.
    pub(super) fn take_off(&mut self, now: Instant) {
        assert!(!self.is_flying(), "one request in flight");
        let size = self.filling.storage().len();
        let landed = core::mem::take(&mut self.flight.bytes);
        let filling = OperationBuilder::at(landed, self.limits.start);
        self.flight.bytes = core::mem::replace(&mut self.filling, filling).into_storage();
        core::mem::swap(&mut self.flight.waiters, &mut self.waiting);
        assert!(self.waiting.is_empty(), "everything in flight was answered");
        self.flight.want = core::mem::take(&mut self.want);
        self.filling_number += 1;
        self.start_flight(size, now);
    }

    /// A frame without an operation (a register) is in flight; what is filled stays.
    pub(super) fn take_off_empty(&mut self, now: Instant) {
        assert!(!self.is_flying(), "one request in flight");
        self.start_flight(self.limits.start, now);
    }

    /// After [`Take::Rest`]: the entries without a reply, as a new flight.
    pub(super) fn take_off_rest(&mut self, now: Instant) {
        assert!(self.flight.size > self.limits.start, "there is a rest");
        let size = self.flight.size;
        self.start_flight(size, now);
    }

    fn start_flight(&mut self, size: usize, now: Instant) {
        let flight = &mut self.flight;
        flight.size = size;
        flight.abandoned = false;
        flight.expires = now.after(core::time::Duration::from_nanos(self.limits.timeout_ns));
        flight.retry_ns = RETRY_NS;
        flight.busy_ns = BUSY_NS;
        flight.failure = Failure::Down;
    }

    /// The operation in flight.
    pub(super) fn flight_operation(&self) -> &[u8] {
        &self.flight.bytes[self.limits.start..self.flight.size]
    }

    /// Writes into what is in front of the operation.
    pub(super) fn write_head(&mut self, at: usize, bytes: &[u8]) {
        assert!(
            at + bytes.len() <= self.limits.start,
            "headers end where the operation starts"
        );
        self.flight.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The frame in flight.
    pub(super) fn flight_bytes(&self) -> &[u8] {
        &self.flight.bytes[..self.flight.size]
    }

    /// The client's checksum of the request in flight.
    pub(super) const fn checksum(&self) -> Checksum {
        self.flight.checksum
    }

    /// Sets [`Self::checksum`].
    pub(super) const fn set_checksum(&mut self, checksum: Checksum) {
        self.flight.checksum = checksum;
    }

    /// The flight was just sent: when to send it again.
    pub(super) fn sent(&mut self, now: Instant) {
        let wait = self.flight.retry_ns + self.jittered(self.flight.retry_ns / 4);
        self.flight.resend = now.after(core::time::Duration::from_nanos(wait));
        self.flight.retry_ns = (self.flight.retry_ns * 2).min(RETRY_MAX_NS);
    }

    /// Somebody else leads now: patience begins anew, and the flight is due.
    pub(super) const fn hurry(&mut self, now: Instant) {
        if self.is_flying() {
            self.flight.retry_ns = RETRY_NS;
            self.flight.busy_ns = BUSY_NS;
            self.flight.resend = now;
        }
    }

    /// The cluster cannot take the flight now, because of `failure`: again, soon.
    pub(super) fn back_off(&mut self, now: Instant, failure: Failure) {
        self.flight.failure = failure;
        let wait = self.flight.busy_ns + self.jittered(self.flight.busy_ns);
        self.flight.resend = now.after(core::time::Duration::from_nanos(wait));
        self.flight.busy_ns = (self.flight.busy_ns * 2).min(BUSY_MAX_NS);
    }

    /// Up to `span` nanoseconds at random, so that lanes and nodes do not retry in step.
    fn jittered(&mut self, span: u64) -> u64 {
        // Marsaglia's xorshift64.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter % span.max(1)
    }

    /// Whether the flight must be sent again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_flying() && self.flight.resend <= now
    }

    /// When something must be done about the flight.
    pub(super) fn next_deadline(&self) -> Instant {
        match (self.is_flying(), self.flight.abandoned) {
            (false, _) => Instant::FAR_FUTURE,
            (true, true) => self.flight.resend,
            (true, false) => self.flight.resend.min(self.flight.expires),
        }
    }

    /// Fails all commands when the flight has been unanswered for too long. It stays in flight.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        deliver: &mut dyn Deliver,
        counters: &mut GatewayCounters,
    ) {
        if !self.is_flying() || self.flight.abandoned || self.flight.expires > now {
            return;
        }
        let failure = self.flight.failure;
        self.flight.abandoned = true;
        self.down = Some(failure);
        counters.timeouts += 1;
        self.unreserve(deliver);
        for waiter in self.flight.waiters.drain(..).chain(self.waiting.drain(..)) {
            counters.failed_commands += 1;
            deliver.deliver(waiter, Outcome::Failed(failure));
        }
        self.filling.clear();
        self.want = Want::default();
        self.filling_number += 1;
    }

    /// The flight without an operation was answered.
    pub(super) fn land_empty(&mut self) {
        self.end_flight();
    }

    /// The flight was answered with `body`.
    pub(super) fn land(
        &mut self,
        body: &[u8],
        deliver: &mut dyn Deliver,
        counters: &mut GatewayCounters,
    ) -> Take {
        if self.flight.abandoned {
            // Its commands were told that nobody knows; what was not executed stays so.
            self.end_flight();
            return Take::All;
        }
        let total = self.flight.waiters.len();
        let reader = match ReplyReader::parse(body) {
            Ok(reader) if (1..=total).contains(&(reader.executed() as usize)) => reader,
            _ => {
                self.fail_flight(Failure::BadReply, deliver, counters);
                return Take::All;
            }
        };
        self.unreserve(deliver);
        let executed = reader.executed() as usize;
        for (reply, &waiter) in reader.zip(&self.flight.waiters) {
            deliver.deliver(waiter, Outcome::Reply(reply));
        }
        counters.commands += executed as u64;
        self.down = None;
        if executed == total {
            self.flight.waiters.clear();
            self.end_flight();
            return Take::All;
        }
        counters.split_operations += 1;
        self.flight.waiters.drain(..executed);
        self.keep_rest(executed);
        Take::Rest
    }

    /// Removes the first `executed` entries from the operation in flight.
    fn keep_rest(&mut self, executed: usize) {
        let operation = &mut self.flight.bytes[self.limits.start..self.flight.size];
        let mut at = 4;
        for _ in 0..executed {
            let size: [u8; 4] = operation[at..at + 4].try_into().expect("four bytes");
            at += 4 + u32::from_le_bytes(size) as usize;
        }
        let left = self.flight.waiters.len() as u32;
        operation.copy_within(at.., 4);
        operation[..4].copy_from_slice(&left.to_le_bytes());
        self.flight.size -= at - 4;
    }

    /// The commands in flight fail; the flight is over.
    pub(super) fn fail_flight(
        &mut self,
        failure: Failure,
        deliver: &mut dyn Deliver,
        counters: &mut GatewayCounters,
    ) {
        self.unreserve(deliver);
        for waiter in self.flight.waiters.drain(..) {
            counters.failed_commands += 1;
            deliver.deliver(waiter, Outcome::Failed(failure));
        }
        self.end_flight();
    }

    fn end_flight(&mut self) {
        assert!(
            self.flight.reserved == 0,
            "what is promised is used or taken back"
        );
        self.down = None;
        self.flight.grounded = None;
        self.flight.size = 0;
        self.flight.expires = Instant::FAR_FUTURE;
        self.flight.resend = Instant::FAR_FUTURE;
    }
}

/// Why a command was not packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// The operation has no room left: try again with the next.
    Full,
    /// No operation has so much room.
    TooLarge,
}

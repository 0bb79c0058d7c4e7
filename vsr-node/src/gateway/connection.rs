//! One RESP connection without its socket: dialect, reply order, and which memory it holds.
//!
//! ```text
//! socket -> Input -> parse -> local answer ----------------> held until its turn -> output -> socket
//!                         \-> lane ... cluster ... reply ----------------------->/
//! ```
//!
//! Replies leave in the order of the commands. Data replies come back in order (one path at a time,
//! one request in flight per lane), so it is enough to count them: a local answer given while data
//! replies are outstanding is held back until the count has come that far.
//!
//! A connection owns no memory but this structure: what it reads lies in a block, what it has to say
//! and what it puts aside in pages, and all of them belong to pools.

use std::net::SocketAddr;

use vsr_types::Instant;

use super::blocks::Input;
use super::memory::Pools;
use super::pages::{Chain, PAGE};
use super::text::ShortText;
use super::transaction::Transaction;
use crate::resp::{Protocol, append_reply};

/// More held-back local answers than this, in bytes, and the connection's next commands wait.
const HELD_MAX: usize = 16 * 1024;
/// What a held-back answer has in front: after which command it comes, and its size.
const HELD_HEADER: usize = 12;
/// The longest name that a client may give itself, in bytes.
pub(super) const NAME_MAX: usize = 64;

/// Which way the outstanding data commands of a connection took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Ordered, in the log.
    Log,
    /// A linearizable read beside the log.
    Query,
}

/// Why the next command of a connection is not executed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// Until all outstanding commands are answered.
    Quiet,
    /// Until the lane's next request is on its way.
    Lane,
    /// Until the client has read its replies.
    Output,
    /// Until there is memory for its answer: the connection stands in line for it.
    Memory,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReplyMode {
    /// Every command is answered.
    #[default]
    On,
    /// None is.
    Off,
    /// The command after this one is not.
    SkipNext,
    /// This one is not.
    Skip,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// The number in `CLIENT ID`.
    pub(super) number: u64,
    pub(super) peer: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
    pub(super) since: Instant,
    /// The last time bytes came.
    pub(super) heard: Instant,
    /// When the first of the unread bytes came.
    pub(super) began: Instant,
    /// The last time the output became shorter.
    pub(super) drained: Instant,
    /// The last time the output was empty.
    pub(super) was_empty: Instant,
    pub(super) lane: usize,
    pub(super) input: Input,
    pub(super) output: Chain,
    pub(super) protocol: Protocol,
    pub(super) authenticated: bool,
    pub(super) name: ShortText<NAME_MAX>,
    pub(super) library: ShortText<NAME_MAX>,
    pub(super) library_version: ShortText<NAME_MAX>,
    pub(super) last_command: &'static str,
    pub(super) read_only: bool,
    pub(super) reply_mode: ReplyMode,
    pub(super) transaction: Transaction,
    pub(super) path: Path,
    pub(super) stall: Option<Stall>,
    /// The last filling of a channel that it had a part in.
    pub(super) filling: u64,
    /// No command is taken any more; closed when the output is empty and nothing is outstanding.
    pub(super) closing: bool,
    /// The client sends nothing more.
    pub(super) ended: bool,
    /// The socket is to be closed at once, whatever is left.
    pub(super) dead: bool,
    /// Listed for flushing.
    pub(super) touched: bool,
    submitted: u64,
    delivered: u64,
    /// Held-back answers: after how many data replies u64, size u32, bytes.
    held: Chain,
    /// How many pages of output are promised for them.
    promised: usize,
}

impl Connection {
    /// A connection that has just been accepted.
    pub(super) fn new(
        number: u64,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
        lane: usize,
        now: Instant,
    ) -> Self {
        Self {
            number,
            peer,
            local,
            since: now,
            heard: now,
            began: now,
            drained: now,
            was_empty: now,
            lane,
            input: Input::default(),
            output: Chain::default(),
            protocol: Protocol::Resp2,
            authenticated: false,
            name: ShortText::default(),
            library: ShortText::default(),
            library_version: ShortText::default(),
            last_command: "NULL",
            read_only: false,
            reply_mode: ReplyMode::On,
            transaction: Transaction::default(),
            path: Path::Log,
            stall: None,
            filling: 0,
            closing: false,
            ended: false,
            dead: false,
            touched: false,
            submitted: 0,
            delivered: 0,
            held: Chain::default(),
            promised: 0,
        }
    }

    /// How many data commands have no answer yet.
    pub(super) const fn outstanding(&self) -> u64 {
        self.submitted - self.delivered
    }

    /// Another data command is on its way over `path`.
    pub(super) fn submitted(&mut self, path: Path) {
        assert!(
            self.outstanding() == 0 || self.path == path,
            "all outstanding commands of a connection take the same path"
        );
        self.path = path;
        self.submitted += 1;
    }

    /// Whether so many local answers are held back that the next command must wait.
    pub(super) const fn is_holding_too_much(&self) -> bool {
        self.held.size() > HELD_MAX
    }

    /// Gives a local answer, in its place behind the outstanding commands. False when there is no
    /// memory for it.
    pub(super) fn answer(&mut self, bytes: &[u8], pools: &mut Pools) -> bool {
        if self.is_silent() {
            return true;
        }
        if self.outstanding() == 0 {
            return pools.output.append(&mut self.output, bytes);
        }
        let promised = (self.held.size() + bytes.len() + HELD_HEADER) / PAGE + 1;
        let more = promised.saturating_sub(self.promised);
        let mut head = [0; HELD_HEADER];
        head[..8].copy_from_slice(&self.submitted.to_le_bytes());
        head[8..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        let pages = (HELD_HEADER + bytes.len()).div_ceil(PAGE);
        if pools.aside.available() < pages || !pools.output.reserve(more, 0) {
            return false;
        }
        self.promised += more;
        let fits =
            pools.aside.append(&mut self.held, &head) && pools.aside.append(&mut self.held, bytes);
        assert!(fits, "the pages were counted");
        true
    }

    /// Whether the command being handled gets no reply (`CLIENT REPLY`).
    pub(super) const fn is_silent(&self) -> bool {
        matches!(self.reply_mode, ReplyMode::Off | ReplyMode::Skip)
    }

    /// The next outstanding data command is answered with the machine's `reply`; see
    /// [`append_reply`] for `null`.
    #[inline]
    pub(super) fn deliver(&mut self, reply: &[u8], null: &[u8], pools: &mut Pools) {
        let is_plain = matches!(
            (self.protocol, reply.first()),
            (_, Some(b'+' | b'-' | b':' | b'$')) | (Protocol::Resp3, Some(_))
        );
        if is_plain {
            return self.deliver_bytes(reply, pools);
        }
        let mut scratch = core::mem::take(&mut pools.scratch);
        scratch.clear();
        if !append_reply(&mut scratch, reply, self.protocol, null) {
            scratch.extend_from_slice(b"-ERR the reply was malformed\r\n");
        }
        self.deliver_bytes(&scratch, pools);
        pools.put_back(scratch);
    }

    /// The next outstanding data command is answered with `bytes`, which may be none.
    #[inline]
    pub(super) fn deliver_bytes(&mut self, bytes: &[u8], pools: &mut Pools) {
        if !pools.output.append(&mut self.output, bytes) {
            self.overrun();
        }
        self.delivered += 1;
        assert!(
            self.delivered <= self.submitted,
            "every reply belongs to a command"
        );
        if !self.held.is_empty() {
            self.release_held(pools);
        }
    }

    /// A reply is lost for want of memory, so nothing that follows would be understood.
    pub(super) const fn overrun(&mut self) {
        self.closing = true;
        self.dead = true;
    }

    /// Moves the held-back answers whose turn has come to the output. The scratch memory may be in use.
    fn release_held(&mut self, pools: &mut Pools) {
        let Pools { output, aside, .. } = pools;
        while !self.held.is_empty() {
            let mut head = [0; HELD_HEADER];
            aside.peek(&self.held, &mut head);
            let [after @ .., a, b, c, d] = head;
            if u64::from_le_bytes(after) > self.delivered {
                break;
            }
            aside.consume(&mut self.held, HELD_HEADER);
            output.unreserve(core::mem::take(&mut self.promised));
            let mut left = u32::from_le_bytes([a, b, c, d]) as usize;
            while left > 0 {
                let piece = aside.front(&self.held);
                let size = piece.len().min(left);
                if !output.append(&mut self.output, &piece[..size]) {
                    self.closing = true;
                    self.dead = true;
                }
                aside.consume(&mut self.held, size);
                left -= size;
            }
            if !self.held.is_empty() {
                let promised = self.held.size() / PAGE + 1;
                let promises = output.reserve(promised, 0);
                self.promised = if promises { promised } else { 0 };
            }
        }
    }

    /// Whether the socket may be read: everything that came was looked at.
    pub(super) const fn wants_input(&self) -> bool {
        !self.closing && !self.ended && self.stall.is_none() && !self.input.waiting
    }

    /// Whether the connection is done: nothing more to take, answer or write.
    pub(super) const fn is_finished(&self) -> bool {
        let over = self.closing || (self.ended && self.stall.is_none());
        self.dead || (over && self.outstanding() == 0 && self.output.is_empty())
    }

    /// Back to the state after connecting (`RESET`), the password forgotten too.
    pub(super) fn reset(&mut self, pools: &mut Pools) {
        self.protocol = Protocol::Resp2;
        self.authenticated = false;
        self.name = ShortText::default();
        self.read_only = false;
        self.reply_mode = ReplyMode::On;
        self.transaction.reset(&mut pools.aside);
    }

    /// Gives all pages back.
    pub(super) fn release(&mut self, pools: &mut Pools) {
        self.transaction.reset(&mut pools.aside);
        pools.aside.clear(&mut self.held);
        pools.output.clear(&mut self.output);
        pools.output.unreserve(core::mem::take(&mut self.promised));
    }
}

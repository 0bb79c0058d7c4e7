//! One RESP connection without its socket: buffers, dialect, and the order of its replies.
//!
//! ```text
//! socket -> Input -> parse -> local answer ----------------> held until its turn -> Output -> socket
//!                         \-> lane ... cluster ... reply ----------------------->/
//! ```
//!
//! Replies leave in the order of the commands. Data replies come back in order (one path at a time,
//! one request in flight per lane), so it is enough to count them: a local answer given while data
//! replies are outstanding is held back until the count has come that far.

use std::collections::VecDeque;

use vsr_types::Instant;

use super::transaction::Transaction;
use crate::resp::{Protocol, append_reply};

/// The input buffer of a quiet connection. One pipeline of 64 small commands fits.
const INPUT_SIZE: usize = 16 * 1024;
/// An output buffer that has grown beyond this gives its memory back when it is empty.
const OUTPUT_KEEP: usize = 64 * 1024;
/// More held-back local answers than this, and the connection's next commands wait.
const HELD_MAX: usize = 16 * 1024;

/// Bytes read and not yet consumed.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The next command cannot be whole before so many bytes are there.
    pub(super) needed: usize,
}

impl Input {
    /// What was read and not consumed.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether there may be another command to parse.
    pub(super) const fn is_worth_parsing(&self) -> bool {
        self.end - self.start >= self.needed && self.end > self.start
    }

    /// Where the next bytes from the socket go; empty when `size_max` bytes are waiting.
    ///
    /// The buffer only doubles once it is full of bytes that really came: announcing a large command
    /// costs nobody memory.
    pub(super) fn space(&mut self, size_max: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes.resize(INPUT_SIZE.min(size_max), 0);
        }
        if self.start > 0 && self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() && self.end < size_max {
            let size = (self.end * 2).min(size_max);
            self.bytes.resize(size, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Whether no further byte can be taken before something is consumed.
    pub(super) const fn is_full(&self, size_max: usize) -> bool {
        self.end - self.start >= size_max
    }

    /// `count` bytes were read into [`Self::space`].
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(
            self.end <= self.bytes.len(),
            "the socket wrote within the space"
        );
    }

    /// The first `count` unread bytes are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        self.needed = 0;
        assert!(self.start <= self.end, "only what was read can be consumed");
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.bytes.len() > INPUT_SIZE {
                self.bytes = Vec::new();
            }
        }
    }

    /// How much memory it holds.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

/// Bytes to be written.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    start: usize,
}

impl Output {
    /// What has not been written yet.
    pub(super) fn unwritten(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// How many bytes that is.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Where replies are appended.
    pub(super) const fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The first `count` bytes of [`Self::unwritten`] are on their way.
    pub(super) fn written(&mut self, count: usize) {
        self.start += count;
        assert!(
            self.start <= self.bytes.len(),
            "only what was there can be written"
        );
        if self.start == self.bytes.len() {
            self.start = 0;
            if self.bytes.capacity() > OUTPUT_KEEP {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        } else if self.start > OUTPUT_KEEP && self.start > self.bytes.len() / 2 {
            // A reader that never quite catches up must not make the buffer grow for ever.
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

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
    pub(super) peer: String,
    pub(super) local: String,
    pub(super) since: Instant,
    /// The last time bytes came.
    pub(super) heard: Instant,
    /// The last time the output became empty or shorter.
    pub(super) drained: Instant,
    pub(super) lane: usize,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) protocol: Protocol,
    pub(super) authenticated: bool,
    pub(super) name: Vec<u8>,
    pub(super) library: Vec<u8>,
    pub(super) library_version: Vec<u8>,
    pub(super) last_command: &'static str,
    pub(super) read_only: bool,
    pub(super) reply_mode: ReplyMode,
    pub(super) transaction: Transaction,
    pub(super) path: Path,
    pub(super) stall: Option<Stall>,
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
    held: Vec<u8>,
    held_marks: VecDeque<(u64, usize)>,
}

impl Connection {
    /// A connection that has just been accepted.
    pub(super) fn new(number: u64, peer: String, local: String, lane: usize, now: Instant) -> Self {
        Self {
            number,
            peer,
            local,
            since: now,
            heard: now,
            drained: now,
            lane,
            input: Input::default(),
            output: Output::default(),
            protocol: Protocol::Resp2,
            authenticated: false,
            name: Vec::new(),
            library: Vec::new(),
            library_version: Vec::new(),
            last_command: "NULL",
            read_only: false,
            reply_mode: ReplyMode::On,
            transaction: Transaction::default(),
            path: Path::Log,
            stall: None,
            closing: false,
            ended: false,
            dead: false,
            touched: false,
            submitted: 0,
            delivered: 0,
            held: Vec::new(),
            held_marks: VecDeque::new(),
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
        self.held.len() > HELD_MAX
    }

    /// Writes a local answer, in its place behind the outstanding commands.
    pub(super) fn answer(&mut self, write: impl FnOnce(&mut Vec<u8>, Protocol)) {
        let silent = self.is_silent();
        if self.outstanding() == 0 {
            let out = self.output.end();
            let before = out.len();
            write(out, self.protocol);
            if silent {
                out.truncate(before);
            }
            return;
        }
        let before = self.held.len();
        write(&mut self.held, self.protocol);
        if silent {
            self.held.truncate(before);
            return;
        }
        let size = self.held.len() - before;
        match self.held_marks.back_mut() {
            Some((after, held)) if *after == self.submitted => *held += size,
            _ => self.held_marks.push_back((self.submitted, size)),
        }
    }

    /// Whether the command being handled gets no reply (`CLIENT REPLY`).
    pub(super) const fn is_silent(&self) -> bool {
        matches!(self.reply_mode, ReplyMode::Off | ReplyMode::Skip)
    }

    /// The next outstanding data command is answered with the machine's `reply`; see
    /// [`append_reply`] for `null`.
    pub(super) fn deliver(&mut self, reply: &[u8], null: &[u8], silent: bool) {
        if !silent && !append_reply(self.output.end(), reply, self.protocol, null) {
            self.output
                .end()
                .extend_from_slice(b"-ERR the reply was malformed\r\n");
        }
        self.count_delivered();
    }

    /// The next outstanding data command is answered by `write`, or by nothing.
    pub(super) fn deliver_with(&mut self, write: impl FnOnce(&mut Vec<u8>, Protocol)) {
        write(self.output.end(), self.protocol);
        self.count_delivered();
    }

    #[inline]
    fn count_delivered(&mut self) {
        self.delivered += 1;
        assert!(
            self.delivered <= self.submitted,
            "every reply belongs to a command"
        );
        if !self.held_marks.is_empty() {
            self.release_held();
        }
    }

    fn release_held(&mut self) {
        let mut released = 0;
        while let Some(&(after, size)) = self.held_marks.front() {
            if after > self.delivered {
                break;
            }
            released += size;
            self.held_marks.pop_front();
        }
        self.output.end().extend_from_slice(&self.held[..released]);
        self.held.drain(..released);
    }

    /// Whether the socket may be read: everything that came was looked at.
    pub(super) fn wants_input(&self) -> bool {
        !self.closing && !self.ended && self.stall.is_none()
    }

    /// Whether the connection is done: nothing more to take, answer or write.
    pub(super) fn is_finished(&self) -> bool {
        let over = self.closing || (self.ended && self.stall.is_none());
        self.dead || (over && self.outstanding() == 0 && self.output.size() == 0)
    }

    /// Back to the state after connecting (`RESET`), the password forgotten too.
    pub(super) fn reset(&mut self) {
        self.protocol = Protocol::Resp2;
        self.authenticated = false;
        self.name.clear();
        self.read_only = false;
        self.reply_mode = ReplyMode::On;
        self.transaction.reset();
    }
}

/// The counts of a connection while one of its commands is answered aside; see
/// [`Connection::begin_aside`].
#[derive(Debug)]
pub(super) struct Aside {
    submitted: u64,
    delivered: u64,
}

impl Connection {
    /// From here to [`Self::end_aside`] answers go straight into [`Self::output`], which the caller
    /// has exchanged, as if nothing were outstanding.
    pub(super) const fn begin_aside(&mut self) -> Aside {
        let aside = Aside {
            submitted: self.submitted,
            delivered: self.delivered,
        };
        self.delivered = self.submitted;
        aside
    }

    /// Ends what [`Self::begin_aside`] began.
    pub(super) fn end_aside(&mut self, aside: Aside) {
        assert_eq!(
            self.submitted, aside.submitted,
            "nothing was submitted aside"
        );
        self.delivered = aside.delivered;
    }
}

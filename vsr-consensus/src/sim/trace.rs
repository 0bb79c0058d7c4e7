//! The last events of a run, and the hash of all of them.
//!
//! Every event goes into the hash, so that two runs of one seed can be compared by one number. The
//! last ones are kept as plain numbers and become words only when somebody reads them.

use core::fmt::{self, Write as _};
use std::string::String;
use std::vec;
use std::vec::Vec;

use vsr_types::message::{
    Commit, DoViewChange, GetHeaders, GetPrepare, GetState, Headers, NewState, Prepare, PrepareOk,
    RecoveryResponse, Reject, RejectReason, Reply, StartView,
};
use vsr_types::{Command, HEADER_SIZE, Header};

use super::net::Address;
use super::plan::{FaultKind, Time};

/// One event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A frame arrived; the flag says whether it was acted on.
    Arrived {
        from: Address,
        to: Address,
        header: Header,
        dropped: Option<&'static str>,
    },
    /// A frame was lost, or met nobody.
    Lost {
        from: Address,
        to: Address,
        header: Header,
    },
    /// A fault happened to the replicas in the mask.
    Fault { kind: FaultKind, mask: u8 },
    /// A replica's process started.
    Started { replica: u8, life: u32 },
    /// A replica's view, or what it does, changed.
    Changed {
        replica: u8,
        status: &'static str,
        view: u64,
        op: u64,
        commit: u64,
    },
    /// Something else.
    Said(&'static str, u64),
}

/// Stands for a deadline in [`Trace::begin`].
pub(crate) static DEADLINE: std::sync::LazyLock<Header> =
    std::sync::LazyLock::new(bytemuck::Zeroable::zeroed);

/// How many events are remembered.
const REMEMBERED: usize = 48;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Trace {
    last: Vec<(Time, Event)>,
    next: usize,
    hash: u64,
    /// What is being handled: what a replica that panics was doing.
    handled: Option<(Address, Address, Header)>,
    /// Everything, in words, when somebody asked for it.
    lines: Option<String>,
}

impl Trace {
    pub(crate) fn new(keep_all: bool) -> Self {
        Self {
            last: vec![(0, Event::Said("", 0)); REMEMBERED],
            next: 0,
            hash: 0xCBF2_9CE4_8422_2325,
            handled: None,
            lines: keep_all.then(String::new),
        }
    }

    #[inline]
    pub(crate) const fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.hash ^= self.hash >> 32;
    }

    #[inline]
    pub(crate) fn push(&mut self, at: Time, event: Event) {
        if let Some(lines) = &mut self.lines {
            // Writing to a string cannot fail.
            let _: fmt::Result = writeln!(lines, "{}", Line(at, &event));
        }
        // What is said all the time would fill the list.
        if let Event::Arrived { header, .. } | Event::Lost { header, .. } = &event
            && matches!(
                header.command(),
                Some(Command::Ping | Command::Pong | Command::Commit | Command::CommitOk)
            )
        {
            return;
        }
        self.last[self.next % REMEMBERED] = (at, event);
        self.next += 1;
    }

    /// A replica begins to handle something.
    pub(crate) const fn begin(&mut self, from: Address, to: Address, header: &Header) {
        self.handled = Some((from, to, *header));
    }

    /// The hash of everything that happened so far.
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    /// The last events, oldest first.
    pub(crate) fn last(&self) -> Vec<String> {
        let count = self.next.min(REMEMBERED);
        let mut lines = Vec::new();
        for i in self.next - count..self.next {
            let (at, event) = &self.last[i % REMEMBERED];
            lines.push(std::format!("{}", Line(*at, event)));
        }
        if let Some((from, to, header)) = &self.handled {
            let what = Words(header);
            lines.push(if from == to {
                std::format!("handled last: the deadline of {to}")
            } else {
                std::format!("handled last: {from} -> {to} {what}")
            });
        }
        lines
    }

    pub(crate) fn take_lines(&mut self) -> Option<String> {
        self.lines.take()
    }
}

struct Line<'a>(Time, &'a Event);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:12.6} ", self.0 as f64 / 1e9)?;
        match self.1 {
            Event::Arrived {
                from,
                to,
                header,
                dropped,
            } => {
                write!(f, "{from} -> {to} {}", Words(header))?;
                match dropped {
                    Some(reason) => write!(f, "  [{reason}]"),
                    None => Ok(()),
                }
            }
            Event::Lost { from, to, header } => write!(f, "{from} -x {to} {}", Words(header)),
            Event::Fault { kind, mask } => write!(f, "** {kind:?} (replicas {mask:#b})"),
            Event::Started { replica, life } => write!(f, "** R{replica} starts, life {life}"),
            Event::Changed {
                replica,
                status,
                view,
                op,
                commit,
            } => write!(
                f,
                "   R{replica} is {status} in view {view}, op {op}, commit {commit}"
            ),
            Event::Said(what, number) => write!(f, "** {what} {number}"),
        }
    }
}

struct Words<'a>(&'a Header);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.0;
        let Some(command) = header.command() else {
            return write!(f, "command {}", header.command_raw());
        };
        write!(f, "{} v{}", command.name(), header.view())?;
        self.log(f)?;
        self.change(f)?;
        self.client(f)?;
        let body = header.size().saturating_sub(HEADER_SIZE);
        if body > 0 {
            write!(f, " ({body} B)")?;
        }
        Ok(())
    }
}

impl Words<'_> {
    /// What fills and repairs logs.
    fn log(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.0;
        if let Some(m) = header.fields::<Prepare>() {
            write!(f, " op {} commit {}", m.op, m.commit)?;
        } else if let Some(m) = header.fields::<PrepareOk>() {
            write!(f, " op {}", m.op)?;
        } else if let Some(m) = header.fields::<Commit>() {
            write!(f, " #{} op {} commit {}", m.sequence, m.op, m.commit)?;
        } else if let Some(m) = header.fields::<GetHeaders>() {
            write!(f, " {}..{}", m.from, m.to)?;
        } else if let Some(m) = header.fields::<GetPrepare>() {
            write!(f, " {}..{}", m.from, m.to)?;
        } else if let Some(m) = header.fields::<Headers>() {
            write!(f, " from {}", m.from)?;
        }
        Ok(())
    }

    /// What changes views and brings memories back.
    fn change(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.0;
        if let Some(m) = header.fields::<DoViewChange>() {
            write!(f, " log view {} op {}", m.log_view, m.op)?;
            write!(f, " commit {}", m.commit)?;
        } else if let Some(m) = header.fields::<StartView>() {
            write!(f, " op {} commit {}", m.op, m.commit)?;
        } else if let Some(m) = header.fields::<RecoveryResponse>() {
            write!(f, " op {} applied {}", m.op, m.applied)?;
        } else if let Some(m) = header.fields::<GetState>() {
            write!(f, " {m:?}")?;
        } else if let Some(m) = header.fields::<NewState>() {
            write!(f, " {m:?}")?;
        }
        Ok(())
    }

    /// What clients are told.
    fn client(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.0;
        if let Some(m) = header.fields::<Reply>() {
            write!(f, " request {} at {}.{}", m.request, m.op, m.index)?;
        } else if let Some(m) = header.fields::<Reject>() {
            let reason = RejectReason::from_raw(m.reason);
            write!(f, " request {}: {reason:?}", m.request)?;
        }
        Ok(())
    }
}

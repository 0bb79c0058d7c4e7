//! The log as its view has it: what a view begins with, what is known to belong to it, what is held.
//!
//! A new view comes with the last headers of its log. A replica that has the ops before them links
//! them to its journal at once. One that lags further keeps them outside the ring, because they *are*
//! part of its log from then on: a later vote without them would deny what this view was started with
//! (trace T18). It then fetches the headers in between, oldest first, from replicas that hold the same
//! view's log, and the bodies by the identities in those headers.
//!
//! ```text
//!        ring                                       inherited
//!   [ .. applied .. held .. verified | not known to belong here ]   ...gap...   [ first .. head ]
//!            executed  |        |
//!          bodies present    linked by parents to the view's log
//! ```
//!
//! While nothing is wrong, `held`, `verified` and the ring's head are the same op.

use alloc::boxed::Box;
use alloc::vec;

use bytemuck::Zeroable;
use vsr_journal::{Journal, SlotState};
use vsr_types::body::{LogSuffix, SUFFIX_WORDS};
use vsr_types::message::Prepare;
use vsr_types::{HEADER_SIZE, Header, Identity, Op, OpMax, limits};

use super::Replica;
use crate::mutants::Mutant;
use crate::{Config, StateMachine};

/// The size of the largest suffix in a message.
pub(super) const SUFFIX_SIZE_MAX: usize =
    size_of::<LogSuffix>() + limits::HEADERS_MAX * HEADER_SIZE;

/// The headers that the log's view began with.
#[derive(Debug)]
pub(super) struct Inherited {
    headers: Box<[Header]>,
    count: usize,
    /// The op of the last of them; what the view began with, also when it has no headers.
    head: Op,
}

impl Inherited {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            headers: vec![Header::zeroed(); suffix_length(config)].into_boxed_slice(),
            count: 0,
            head: Op::ZERO,
        }
    }

    /// The op that the view's log ended with when the view began.
    pub(super) const fn head(&self) -> Op {
        self.head
    }

    /// The op of the first header.
    fn first(&self) -> Op {
        self.head.minus(self.count as u64).next()
    }

    /// The header of `op`, verified (N17).
    pub(super) fn header(&self, op: Op) -> Option<&Header> {
        if op < self.first() || op > self.head {
            return None;
        }
        let header = &self.headers[op.distance_from(self.first()) as usize];
        header.is_intact().then_some(header)
    }

    /// Rewrites headers that are damaged from those of the ring, which has them too up to `verified`. Says
    /// how many.
    pub(super) fn mend(&mut self, journal: &Journal, verified: Op) -> u32 {
        let (first, mut mended) = (self.first(), 0);
        for (index, header) in self.headers[..self.count].iter_mut().enumerate() {
            let op = first.plus(index as u64);
            // Intact, or a blank that stands for an entry nobody could show.
            if header.is_intact() || *header == Header::zeroed() || op > verified {
                continue;
            }
            if let Some(whole) = journal.header(op) {
                *header = *whole;
                mended += 1;
            }
        }
        mended
    }

    /// Flips a bit of a header, as memory does.
    #[cfg(feature = "flip")]
    pub(super) fn flip(&mut self, index: usize, bit: usize) -> bool {
        let header = self.headers[..self.count].get_mut(index);
        header.is_some_and(|header| super::flip::flip_bit(bytemuck::bytes_of_mut(header), bit))
    }

    fn set(&mut self, headers: &[Header], head: Op) {
        let count = headers.len().min(self.headers.len());
        self.headers[..count].copy_from_slice(&headers[headers.len() - count..]);
        self.count = count;
        self.head = head;
    }
}

/// How many headers a suffix has: a pipeline, and the committed op before it (R2.1, R5.4).
pub(super) const fn suffix_length(config: &Config) -> usize {
    config.pipeline_length() + 1
}

/// The op and parent of a header in a suffix; none for a blank, which stands for an entry whose header
/// the sender cannot read.
pub(super) fn entry_of(header: &Header) -> Option<&Prepare> {
    header.fields::<Prepare>()
}

/// Reads the headers behind a suffix and checks that they are what they must be: intact, of
/// consecutive ops that end with `head`, each the parent of the next, and in the epoch of its op (R10.2). Blanks are allowed if
/// `with_blanks`. None when the message contradicts itself.
pub(super) fn read_headers<'a>(
    bytes: &[u8],
    count: u64,
    head: Op,
    with_blanks: bool,
    op_max: OpMax,
    into: &'a mut [Header],
) -> Option<&'a [Header]> {
    let count = usize::try_from(count).ok()?;
    let is_right_size = count.checked_mul(HEADER_SIZE)? == bytes.len();
    if !is_right_size || count > into.len() || count as u64 > head.raw() {
        return None;
    }
    let first = head.minus(count as u64).next();
    let mut before: Option<Identity> = None;
    for (index, (bytes, into)) in bytes
        .chunks_exact(HEADER_SIZE)
        .zip(into.iter_mut())
        .enumerate()
    {
        *into = bytemuck::pod_read_unaligned(bytes);
        if with_blanks && *into == Header::zeroed() {
            before = None;
            continue;
        }
        let entry = *into
            .fields::<Prepare>()
            .filter(|_| into.is_intact() && into.route().is_some())?;
        let follows = before.is_none_or(|before| before == entry.parent);
        let is_named = op_max.epoch(entry.op) == into.epoch();
        if entry.op != first.plus(index as u64) || !follows || !is_named {
            return None;
        }
        before = Some(into.identity());
    }
    Some(&into[..count])
}

/// A header in a log conflicts with one that is committed here: one of the two logs is wrong, and
/// nobody can tell which (I8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) op: Op,
}

impl<S: StateMachine> Replica<S> {
    /// A cluster begins, and its first view with it, behind the op of `genesis`.
    pub(super) fn begin_inherited(&mut self, genesis: &Header) {
        let op = entry_of(genesis)
            .expect("a genesis looks like a prepare")
            .op;
        self.inherited.set(core::slice::from_ref(genesis), op);
    }

    /// The last op of this replica's log, also when the ring does not reach that far yet.
    pub(super) fn log_head(&self) -> Op {
        self.op().max(self.inherited.head())
    }

    /// Whether everything in the log is linked to its view and in the ring.
    pub(super) fn is_log_whole(&self) -> bool {
        self.verified == self.op() && self.op() >= self.inherited.head()
    }

    /// The header of `op` as the log's view has it.
    fn canonical_header(&self, op: Op) -> Option<&Header> {
        if op <= self.op() {
            self.journal.header(op).filter(|_| op <= self.verified)
        } else {
            self.inherited.header(op)
        }
    }

    /// Replaces the log's end by that of a view: `headers`, the last of which is `head`'s, belong to
    /// its log for certain (R5.6, R5.7). Entries here that differ go; those that fit stay, with their
    /// bodies and marks. The caller sets view and log view in the same step.
    pub(super) fn install_log(&mut self, headers: &[Header], head: Op) -> Result<(), Conflict> {
        let count = headers.len() as u64;
        assert!(count <= head.raw(), "a header for each op at most");
        let first = head.minus(count).next();
        let kept = self.is_off(Mutant::KeepDivergent);
        for header in headers.iter().filter(|_| !kept) {
            let op = entry_of(header).expect("the caller checked the headers").op;
            if op > self.op() || op < self.journal.oldest() {
                continue;
            }
            // A slot that cannot be read any more gets its header back; the entry stays marked.
            let _ = self.journal.restore_header(header);
            let ours = self.journal.header(op).map(Header::identity);
            if ours.is_none_or(|ours| ours == header.identity()) {
                continue;
            }
            self.cut(op)?;
            break;
        }
        if head < self.op() && !kept {
            self.cut(head.next())?;
        }
        self.inherited.set(headers, head);
        self.marks.inherited = self.marks.inherited.max(self.inherited.count);
        self.verified = self.verified_in(headers, first);
        self.extend_log();
        self.recount_held();
        Ok(())
    }

    /// Up to which op the ring is known to belong to the log that ends with `headers`.
    fn verified_in(&self, headers: &[Header], first: Op) -> Op {
        if headers.is_empty() && self.inherited.head() > Op::ZERO {
            return self.committed_here();
        }
        if headers.is_empty() || self.op() >= first {
            // What is left of the ring was compared with them, and it is a chain in itself.
            return self.op();
        }
        let parent = headers[0].fields::<Prepare>().expect("checked").parent;
        if self.op().next() == first && self.head == parent {
            return self.op();
        }
        self.committed_here()
    }

    /// Up to which op the ring is committed for certain, and so part of every later log (R5.4).
    fn committed_here(&self) -> Op {
        self.applied
            .max(self.commit.min(self.verified).min(self.op()))
    }

    /// Drops the entries from `op` on: a newer view's log has others there (I15).
    fn cut(&mut self, op: Op) -> Result<(), Conflict> {
        let head = op.previous().ok_or(Conflict { op })?;
        if op <= self.commit.min(self.verified) || op <= self.applied {
            return Err(Conflict { op });
        }
        let Some(identity) = self.identity_of(head) else {
            return Err(Conflict { op: head });
        };
        self.journal.truncate(head, self.applied);
        self.head = identity;
        self.head_timestamp = self.timestamp_of(head);
        self.verified = self.verified.min(head);
        self.held = self.held.min(head);
        self.forwarded = self.forwarded.min(head);
        Ok(())
    }

    fn timestamp_of(&self, op: Op) -> vsr_types::Timestamp {
        if op == self.applied {
            return self.applied_timestamp;
        }
        self.journal
            .header(op)
            .and_then(|header| header.fields::<Prepare>())
            .map_or(self.applied_timestamp, |prepare| prepare.timestamp)
    }

    /// Moves headers of the view's beginning into the ring, as far as they connect and fit.
    pub(super) fn extend_log(&mut self) {
        while self.verified == self.op() && self.op() < self.inherited.head() {
            let Some(header) = self.inherited.header(self.op().next()).copied() else {
                return;
            };
            if !self.append_evident(&header) {
                return;
            }
        }
    }

    /// Appends a header that is known to belong to this log; its body is fetched by identity. Says
    /// whether there was room.
    pub(super) fn append_evident(&mut self, header: &Header) -> bool {
        let entry = *entry_of(header).expect("the caller checked the header");
        assert!(
            entry.op == self.op().next(),
            "entries are appended in order"
        );
        assert!(
            self.verified == self.op(),
            "only to what belongs to this log"
        );
        if entry.parent != self.head
            || entry.timestamp <= self.head_timestamp
            || !self.journal.room(header.body_size(), self.applied.next())
        {
            return false;
        }
        let state = self.journal.append_header(header, self.applied.next());
        self.head = header.identity();
        self.head_timestamp = entry.timestamp;
        self.verified = entry.op;
        if state == SlotState::Present && self.held.next() == entry.op {
            self.held = entry.op;
        }
        self.repair.note_progress(self.now.monotonic);
        true
    }

    /// Takes headers from a replica that holds the same view's log: the ones after what is verified
    /// here. Says whether anything was learnt.
    pub(super) fn take_evidence(&mut self, headers: &[Header]) -> Result<bool, Conflict> {
        let before = (self.verified, self.op());
        for header in headers {
            let entry = *entry_of(header).expect("the caller checked the headers");
            if entry.op != self.verified.next()
                || Some(entry.parent) != self.identity_of(self.verified)
            {
                continue;
            }
            if entry.op <= self.op() {
                let _ = self.journal.restore_header(header);
                let ours = self.journal.header(entry.op).map(Header::identity);
                if ours == Some(header.identity()) {
                    self.verified = entry.op;
                    continue;
                }
                self.cut(entry.op)?;
            }
            if !self.append_evident(header) {
                break;
            }
        }
        self.extend_log();
        self.recount_held();
        Ok(before != (self.verified, self.op()))
    }

    /// Up to which op every body is present, from the last one executed on.
    pub(super) fn recount_held(&mut self) {
        self.recount_held_from(self.applied);
    }

    /// As [`Self::recount_held`], everything up to `held` being present for certain.
    pub(super) fn recount_held_from(&mut self, held: Op) {
        let mut held = held;
        while held < self.verified && self.journal.state(held.next()) == SlotState::Present {
            held = held.next();
        }
        self.held = held;
    }

    /// Writes the last headers of this log, and what is held of them, as they go into votes and
    /// start_views. Returns the size.
    pub(super) fn write_suffix(&self, into: &mut [u8]) -> usize {
        let head = self.log_head();
        let count = (suffix_length(&self.config) as u64).min(head.raw());
        let first = head.minus(count).next();
        let mut suffix = LogSuffix {
            crash_vector: self.crash_vector,
            present: [0; SUFFIX_WORDS],
            nack: [0; SUFFIX_WORDS],
            count,
        };
        let start = size_of::<LogSuffix>();
        for index in 0..count {
            let op = first.plus(index);
            let header = self.canonical_header(op).copied();
            let (word, bit) = (index as usize / 64, index % 64);
            if let Some(header) = header {
                let (present, nack) = self.promise_for(op, &header);
                suffix.present[word] |= u64::from(present) << bit;
                suffix.nack[word] |= u64::from(nack) << bit;
            }
            let at = start + index as usize * HEADER_SIZE;
            let blank = Header::zeroed();
            let header = header.as_ref().unwrap_or(&blank);
            into[at..at + HEADER_SIZE].copy_from_slice(bytemuck::bytes_of(header));
        }
        into[..start].copy_from_slice(bytemuck::bytes_of(&suffix));
        start + count as usize * HEADER_SIZE
    }

    /// What may be said of the body of `op`: (it is here, it never was). A damaged one is neither
    /// (R5.5, traces T20a and T20b).
    fn promise_for(&self, op: Op, header: &Header) -> (bool, bool) {
        if op > self.op() {
            let may_have = self.journal.may_have_held(op, &header.identity());
            return (false, !may_have);
        }
        match self.journal.state(op) {
            SlotState::Present => (self.journal.read(op).is_ok(), false),
            SlotState::Missing => (false, true),
            SlotState::Faulty => (false, self.is_off(Mutant::NackFaulty)),
            SlotState::Empty | SlotState::Overwritten => (false, false),
        }
    }

    /// The oldest op that the ring must keep: the first one not executed here (R8.1).
    pub(super) fn protected_from(&self) -> Op {
        if self.is_off(Mutant::WrapOver) {
            self.op()
        } else {
            self.applied.next()
        }
    }

    /// The broken replica of a test that cuts its log when it hears of a newer view, and calls the rest
    /// that view's log (trace T12).
    pub(super) fn cut_and_adopt_mutant(&mut self, view: vsr_types::View) {
        if !self.is_off(Mutant::CutAndAdopt) || !self.is_normal() {
            return;
        }
        let kept = self.applied.max(self.commit.min(self.op()));
        if kept < self.op() && self.cut(kept.next()).is_err() {
            return;
        }
        (self.view, self.log_view) = (view, view);
    }

    /// Damages the entry of `op`, as memory does: for tests.
    #[cfg(any(feature = "mutate", feature = "sim"))]
    pub fn damage(&mut self, op: Op) {
        self.journal.mark_faulty(op);
    }

    /// Whether this test build does without the rule.
    #[cfg_attr(
        not(feature = "mutate"),
        expect(
            clippy::unused_self,
            reason = "a build without switches has nothing to look at"
        )
    )]
    #[inline]
    pub(super) fn is_off(&self, rule: Mutant) -> bool {
        #[cfg(feature = "mutate")]
        {
            self.config.mutant == Some(rule)
        }
        #[cfg(not(feature = "mutate"))]
        {
            let _ = rule;
            false
        }
    }
}

//! What was found damaged, and what became of it: for people (N18, R14.4).
//!
//! Nothing in the protocol depends on this. The last few findings are remembered one by one, each with its
//! place, who noticed it and how it ended; all of them are counted by kind.

use core::ops::Range;

use vsr_types::{Instant, Op, ReplicaIndex};

use super::Replica;
use crate::StateMachine;

/// How many findings are remembered.
const FINDINGS_MAX: usize = 16;

/// What was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// One copy of a header, or of the note where a body lies.
    Copy,
    /// An entry of the journal: its body, or both copies of its header.
    Entry,
    /// Sessions: table, lists, cached replies.
    Sessions,
    /// The machine's state.
    State,
}

impl FindingKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Copy, Self::Entry, Self::Sessions, Self::State];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Entry => "entry",
            Self::Sessions => "sessions",
            Self::State => "state",
        }
    }
}

/// Who noticed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// Whoever read it, because it was needed.
    Use,
    /// The scrubber.
    Scrubber,
}

/// What became of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It is damaged still, and being fetched.
    None,
    /// It was rewritten from the other copy here.
    OtherCopy,
    /// It was replaced by what this replica had.
    Peer(ReplicaIndex),
    /// What was damaged is not held any more: something new was written there.
    Overwritten,
    /// It is damaged still, and no replica could give it: bad, or gone, wherever it was held.
    Nobody,
}

impl Remedy {
    /// Whether it is damaged no more.
    #[must_use]
    pub const fn is_sound(self) -> bool {
        !matches!(self, Self::None | Self::Nobody)
    }
}

/// Something that was not what had been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Counts findings from 1.
    pub number: u64,
    /// What.
    pub kind: FindingKind,
    /// Where: the slot of the journal, or the first chunk of the image (those of the sessions come first;
    /// [`crate::CHUNK_UNKNOWN`]: it cannot be told).
    pub place: u64,
    /// The op of the entry, or after which the state was last sound.
    pub op: Op,
    /// Who noticed it.
    pub by: FoundBy,
    /// When.
    pub at: Instant,
    /// What became of it.
    pub remedy: Remedy,
    /// When that was known.
    pub ended_at: Instant,
}

/// How many findings there were of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FindingTotals {
    /// Noticed by whoever read it.
    pub on_use: u64,
    /// Noticed by the scrubber.
    pub by_scrubber: u64,
    /// Sound again.
    pub repaired: u64,
    /// Times when no replica could give what was damaged.
    pub unrepairable: u64,
}

/// The last findings, and how many of each kind.
#[derive(Debug, Default)]
pub(super) struct Findings {
    last: [Option<Finding>; FINDINGS_MAX],
    totals: [FindingTotals; FindingKind::ALL.len()],
    count: u64,
}

impl Findings {
    /// Notes a finding, unless it is known and open.
    fn note(&mut self, kind: FindingKind, place: u64, op: Op, by: FoundBy, at: Instant) {
        let is_it = |known: &Finding| {
            known.kind == kind && known.place == place && !known.remedy.is_sound()
        };
        if self.last.iter().flatten().any(is_it) {
            return;
        }
        let totals = &mut self.totals[kind as usize];
        match by {
            FoundBy::Use => totals.on_use += 1,
            FoundBy::Scrubber => totals.by_scrubber += 1,
        }
        self.count += 1;
        // What is over makes room first, then what is oldest.
        let is_open = |known: &Option<Finding>| known.is_some_and(|f| !f.remedy.is_sound());
        let number = |known: &Option<Finding>| known.map_or(0, |finding| finding.number);
        let place_of = self
            .last
            .iter_mut()
            .min_by_key(|known| (is_open(known), number(known)));
        if let Some(room) = place_of {
            *room = Some(Finding {
                number: self.count,
                kind,
                place,
                op,
                by,
                at,
                remedy: Remedy::None,
                ended_at: Instant::ZERO,
            });
        }
    }

    /// What is open and `is_it` ended like that.
    fn end(&mut self, remedy: Remedy, at: Instant, is_it: impl Fn(&Finding) -> bool) {
        for finding in self.last.iter_mut().flatten() {
            if finding.remedy.is_sound() || finding.remedy == remedy || !is_it(finding) {
                continue;
            }
            let totals = &mut self.totals[finding.kind as usize];
            match remedy {
                Remedy::None => {}
                Remedy::Nobody => totals.unrepairable += 1,
                Remedy::OtherCopy | Remedy::Peer(_) | Remedy::Overwritten => totals.repaired += 1,
            }
            (finding.remedy, finding.ended_at) = (remedy, at);
        }
    }
}

/// Whether it is a part of the state.
const fn is_state(kind: FindingKind) -> bool {
    matches!(kind, FindingKind::Sessions | FindingKind::State)
}

impl<S: StateMachine> Replica<S> {
    /// Damaged copies of a slot were rewritten from the other ones.
    pub(super) fn found_copies(&mut self, slot: u64, op: Option<Op>, count: u32) {
        let (op, now) = (op.unwrap_or_default(), self.now.monotonic);
        for _ in 0..count {
            let kind = FindingKind::Copy;
            self.findings.note(kind, slot, op, FoundBy::Scrubber, now);
            self.findings.end(Remedy::OtherCopy, now, |f| {
                f.kind == kind && f.place == slot
            });
        }
    }

    /// An entry of the journal is damaged.
    pub(super) fn found_entry(&mut self, op: Op, by: FoundBy) {
        let slot = op.raw() % self.journal.slots() as u64;
        self.findings
            .note(FindingKind::Entry, slot, op, by, self.now.monotonic);
    }

    /// It is not any more, or nobody has it.
    pub(super) fn end_entry(&mut self, op: Op, remedy: Remedy) {
        let is_it = |finding: &Finding| finding.kind == FindingKind::Entry && finding.op == op;
        self.findings.end(remedy, self.now.monotonic, is_it);
    }

    /// Entries before the journal's tail are not held any more.
    pub(super) fn end_entries_gone(&mut self) {
        let tail = self.journal.tail();
        let is_it = |finding: &Finding| finding.kind == FindingKind::Entry && finding.op < tail;
        self.findings
            .end(Remedy::Overwritten, self.now.monotonic, is_it);
    }

    /// Chunks of the image are damaged.
    pub(super) fn found_chunks(&mut self, chunks: &Range<u64>, by: FoundBy) {
        let kind = if chunks.start < self.sessions.image_chunks() && chunks.end != u64::MAX {
            FindingKind::Sessions
        } else {
            FindingKind::State
        };
        let place = if chunks.end == u64::MAX {
            crate::machine::CHUNK_UNKNOWN
        } else {
            chunks.start
        };
        self.findings
            .note(kind, place, self.applied, by, self.now.monotonic);
    }

    /// All damage in machine and sessions ended like that.
    pub(super) fn end_state(&mut self, remedy: Remedy) {
        let is_it = |finding: &Finding| is_state(finding.kind);
        self.findings.end(remedy, self.now.monotonic, is_it);
    }

    /// The damage in these chunks is not there any more.
    pub(super) fn end_chunks(&mut self, first: u64) {
        let is_it = |finding: &Finding| is_state(finding.kind) && finding.place == first;
        self.findings
            .end(Remedy::Overwritten, self.now.monotonic, is_it);
    }

    /// The last findings of damage, the newest first. What is damaged now comes before what was.
    pub fn findings(&self) -> impl Iterator<Item = Finding> {
        let mut last = self.findings.last;
        last.sort_unstable_by_key(|known| {
            let key = |f: Finding| (f.remedy.is_sound(), u64::MAX - f.number);
            known.map_or((true, u64::MAX), key)
        });
        last.into_iter().flatten()
    }

    /// How many findings there were since the start, by kind.
    #[must_use]
    pub fn finding_totals(&self) -> [(FindingKind, FindingTotals); FindingKind::ALL.len()] {
        FindingKind::ALL.map(|kind| (kind, self.findings.totals[kind as usize]))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn is_any(_: &Finding) -> bool {
        true
    }

    #[test]
    fn a_finding_counts_once_while_it_is_open_and_again_when_it_comes_back() {
        let mut findings = Findings::default();
        let entry = FindingKind::Entry;
        for ms in 1..4 {
            findings.note(entry, 7, Op::new(7), FoundBy::Use, at(ms));
        }
        assert_eq!(findings.totals[entry as usize].on_use, 1);
        findings.end(Remedy::Nobody, at(5), is_any);
        findings.end(Remedy::Nobody, at(6), is_any);
        findings.note(entry, 7, Op::new(7), FoundBy::Scrubber, at(7));
        findings.end(Remedy::Peer(ReplicaIndex::new(1)), at(8), is_any);
        findings.note(entry, 7, Op::new(7), FoundBy::Scrubber, at(9));
        let expected = FindingTotals {
            on_use: 1,
            by_scrubber: 1,
            repaired: 1,
            unrepairable: 1,
        };
        assert_eq!(findings.totals[entry as usize], expected);
        let known: Vec<Finding> = findings.last.iter().flatten().copied().collect();
        assert_eq!((known[0].at, known[0].ended_at), (at(1), at(8)));
        assert_eq!((known[1].at, known[1].remedy), (at(9), Remedy::None));
    }

    #[test]
    fn what_is_open_is_forgotten_last() {
        let mut findings = Findings::default();
        let note = |findings: &mut Findings, place: u64| {
            let kind = FindingKind::State;
            findings.note(kind, place, Op::new(1), FoundBy::Use, at(place));
        };
        for place in 0..FINDINGS_MAX as u64 {
            note(&mut findings, place);
        }
        findings.end(Remedy::Overwritten, at(50), |f| f.place == 9);
        note(&mut findings, 100);
        let places = |findings: &Findings| -> Vec<u64> {
            let mut places: Vec<u64> = findings.last.iter().flatten().map(|f| f.place).collect();
            places.sort_unstable();
            places
        };
        assert!(!places(&findings).contains(&9));
        note(&mut findings, 101);
        assert!(!places(&findings).contains(&0), "then the oldest");
        assert_eq!(findings.totals[FindingKind::State as usize].on_use, 18);
    }
}

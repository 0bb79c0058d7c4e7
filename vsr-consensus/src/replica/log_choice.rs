//! Votes in, the log of the new view out: the one place where it is decided what survives (R5.4, R5.5).
//!
//! A pure function. The newest log view decides, the longest log of it: a log may be long because it
//! is old (trace T16). Up to the highest commit number in the votes, everything stays. Behind it an
//! entry stays when some vote holds its body. It goes, with everything after it, only when a quorum
//! proves that it never held it: then no quorum ever acknowledged it. In between, nobody at hand has it
//! and too few deny it: it may have been committed, so the choice waits for more votes.

use vsr_types::body::{LogSuffix, SUFFIX_WORDS};
use vsr_types::message::{DoViewChange, Prepare};
use vsr_types::{Header, Identity, Op, View};

/// A log that a replica offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vote<'a> {
    pub(super) fields: DoViewChange,
    pub(super) present: &'a [u64; SUFFIX_WORDS],
    pub(super) nack: &'a [u64; SUFFIX_WORDS],
    /// The last headers of the log; zeroed ones stand for what the sender cannot read.
    pub(super) headers: &'a [Header],
}

impl<'a> Vote<'a> {
    pub(super) const fn new(
        fields: DoViewChange,
        suffix: &'a LogSuffix,
        headers: &'a [Header],
    ) -> Self {
        Self {
            fields,
            present: &suffix.present,
            nack: &suffix.nack,
            headers,
        }
    }

    fn place_of(&self, op: Op) -> Option<usize> {
        let first = self.fields.op.minus(self.headers.len() as u64).next();
        (op >= first && op <= self.fields.op).then(|| op.distance_from(first) as usize)
    }

    fn header(&self, op: Op) -> Option<&'a Header> {
        let header = &self.headers[self.place_of(op)?];
        header.fields::<Prepare>().map(|_| header)
    }

    const fn bit(map: &[u64; SUFFIX_WORDS], place: usize) -> bool {
        map[place / 64] >> (place % 64) & 1 == 1
    }

    fn has_body(&self, op: Op, identity: &Identity) -> bool {
        let is_same = self
            .header(op)
            .is_some_and(|header| header.identity() == *identity);
        is_same
            && self
                .place_of(op)
                .is_some_and(|place| Self::bit(self.present, place))
    }

    /// Whether this replica never held the entry: its log ends before, has another one there, or the
    /// header came without the body. A blank says nothing.
    fn denies(&self, op: Op, identity: &Identity) -> bool {
        if op > self.fields.op {
            return true;
        }
        let (Some(header), Some(place)) = (self.header(op), self.place_of(op)) else {
            return false;
        };
        header.identity() != *identity || Self::bit(self.nack, place)
    }
}

/// The log of the new view. Only [`choose`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChosenLog {
    /// The view in whose log it was found.
    pub(super) log_view: View,
    /// Its last op.
    pub(super) head: Op,
    /// The highest commit number among the votes.
    pub(super) commit: Op,
    /// How many of the headers written by [`choose`] are the end of it.
    pub(super) count: usize,
}

/// Why no log could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecided {
    /// The op may have been committed and nobody at hand holds it: more votes are needed.
    Op(Op),
    /// Two votes that cannot both be true (I10, I11).
    Contradiction(Op),
}

/// What the choice does without, in tests of the tests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Without {
    pub(super) newest_view: bool,
    pub(super) denials: bool,
}

/// Chooses the log of the new view from `votes`, at least a quorum of them, which agree on who is
/// alive (R5.3). `pipeline` is how many ops may be undecided at most. The end of the log is written
/// into `into`, oldest header first.
pub(super) fn choose(
    votes: &[Vote<'_>],
    quorum: u8,
    pipeline: usize,
    without: Without,
    into: &mut [Header],
) -> Result<ChosenLog, Undecided> {
    let newest = votes.iter().map(|vote| vote.fields.log_view).max();
    let newest = newest.expect("the caller has a quorum of votes");
    let is_candidate = |vote: &&Vote<'_>| vote.fields.log_view == newest || without.newest_view;
    let longest = votes
        .iter()
        .filter(is_candidate)
        .map(|vote| vote.fields.op)
        .max();
    let longest = longest.expect("the newest view is somebody's");
    let commit = votes.iter().map(|vote| vote.fields.commit).max();
    let commit = commit.expect("the caller has a quorum of votes");
    let header_of = |op: Op| {
        votes
            .iter()
            .filter(is_candidate)
            .filter(|vote| !without.newest_view || vote.fields.op == longest)
            .find_map(|vote| vote.header(op))
    };
    if longest < commit && !without.newest_view {
        // I11: what is committed is in the newest log.
        return Err(Undecided::Contradiction(commit));
    }
    // R2.1: what lies a pipeline before the end of a log is committed.
    let decided = commit.max(longest.minus(pipeline as u64)).min(longest);
    let mut head = longest;
    let mut op = decided;
    while op < longest {
        op = op.next();
        let header = header_of(op).ok_or(Undecided::Op(op))?;
        let identity = header.identity();
        let disagrees = |vote: &Vote<'_>| vote.header(op).is_some_and(|h| h.identity() != identity);
        if votes.iter().filter(is_candidate).any(disagrees) && !without.newest_view {
            return Err(Undecided::Contradiction(op));
        }
        if votes.iter().any(|vote| vote.has_body(op, &identity)) {
            continue;
        }
        let denials = votes
            .iter()
            .filter(|vote| vote.denies(op, &identity))
            .count();
        if denials >= usize::from(quorum) || without.denials {
            head = op.minus(1);
            break;
        }
        return Err(Undecided::Op(op));
    }
    let count = write_end(head, header_of, into)?;
    Ok(ChosenLog {
        log_view: newest,
        head,
        commit: commit.min(head),
        count,
    })
}

/// Writes the headers that end with `head` and are linked to each other, as many as are known.
fn write_end<'a>(
    head: Op,
    header_of: impl Fn(Op) -> Option<&'a Header>,
    into: &mut [Header],
) -> Result<usize, Undecided> {
    let mut count = 0;
    let mut parent: Option<Identity> = None;
    while count < into.len() && (count as u64) < head.raw() {
        let op = head.minus(count as u64);
        let Some(header) = header_of(op) else {
            break;
        };
        if parent.is_some_and(|parent| parent != header.identity()) {
            return Err(Undecided::Contradiction(op));
        }
        parent = header.fields::<Prepare>().map(|prepare| prepare.parent);
        into[count] = *header;
        count += 1;
    }
    into[..count].reverse();
    Ok(count)
}

#[cfg(test)]
mod tests;

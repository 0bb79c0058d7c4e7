//! What survives a view change, vote by vote.

extern crate std;

use std::vec;
use std::vec::Vec;

use bytemuck::Zeroable;
use vsr_types::View;

use super::*;

/// A log entry whose identity depends on everything before it.
fn header(op: u64, view: u64, parent: Identity) -> Header {
    let mut header = Header::new(Prepare {
        op: Op::new(op),
        parent,
        ..Prepare::zeroed()
    });
    header.set_view(View::new(view));
    header.seal(&[]);
    header
}

/// A chain of entries that were prepared in these views.
fn chain(views: &[u64]) -> Vec<Header> {
    let mut parent = Identity::default();
    let mut headers = Vec::new();
    for (index, &view) in views.iter().enumerate() {
        let header = header(index as u64 + 1, view, parent);
        parent = header.identity();
        headers.push(header);
    }
    headers
}

struct Ballot {
    log_view: u64,
    commit: u64,
    headers: Vec<Header>,
    suffix: LogSuffix,
}

impl Ballot {
    /// A vote for a log all of which is present.
    fn new(log_view: u64, commit: u64, views: &[u64]) -> Self {
        let mut suffix = LogSuffix::zeroed();
        suffix.present[0] = u64::MAX;
        Self {
            log_view,
            commit,
            headers: chain(views),
            suffix,
        }
    }

    /// The body of `op` was never received.
    fn missing(mut self, op: u64) -> Self {
        self.suffix.present[0] &= !(1 << (op - 1));
        self.suffix.nack[0] |= 1 << (op - 1);
        self
    }

    /// The body of `op` is damaged.
    fn faulty(mut self, op: u64) -> Self {
        self.suffix.present[0] &= !(1 << (op - 1));
        self
    }

    /// Even the header of `op` is damaged.
    fn blank(mut self, op: u64) -> Self {
        self.headers[op as usize - 1] = Header::zeroed();
        self.faulty(op)
    }

    fn vote(&self) -> Vote<'_> {
        let fields = DoViewChange {
            log_view: View::new(self.log_view),
            op: Op::new(self.headers.len() as u64),
            commit: Op::new(self.commit),
            ..DoViewChange::zeroed()
        };
        Vote::new(fields, &self.suffix, &self.headers)
    }
}

const PIPELINE: usize = 8;

fn choice(ballots: &[Ballot], quorum: u8) -> Result<(Op, View, Vec<Header>), Undecided> {
    let votes: Vec<Vote<'_>> = ballots.iter().map(Ballot::vote).collect();
    let mut into = vec![Header::zeroed(); PIPELINE + 1];
    let chosen = choose(&votes, quorum, PIPELINE, Without::default(), &mut into)?;
    into.truncate(chosen.count);
    Ok((chosen.head, chosen.log_view, into))
}

fn head(ballots: &[Ballot], quorum: u8) -> Result<u64, Undecided> {
    choice(ballots, quorum).map(|(head, ..)| head.raw())
}

#[test]
fn s16_the_newest_view_wins_over_the_longest_log() {
    let old = Ballot::new(0, 0, &[0, 0]);
    let new = Ballot::new(1, 0, &[1]);
    let (head, log_view, headers) = choice(&[old, new], 2).expect("decided");
    assert_eq!((head, log_view), (Op::new(1), View::new(1)));
    assert_eq!(headers, chain(&[1]));
}

#[test]
fn the_longest_log_of_the_newest_view_wins() {
    let short = Ballot::new(3, 1, &[0, 3]);
    let long = Ballot::new(3, 1, &[0, 3, 3]);
    assert_eq!(head(&[short, long], 2), Ok(3));
}

#[test]
fn s18_a_header_without_its_body_is_part_of_the_log() {
    let headers_only = Ballot::new(1, 0, &[0]).missing(1);
    let empty = Ballot::new(0, 0, &[]);
    let holder = Ballot::new(0, 0, &[0]);
    assert_eq!(
        head(&[headers_only, holder], 2),
        Ok(1),
        "somebody has the body"
    );
    let headers_only = Ballot::new(1, 0, &[0]).missing(1);
    assert_eq!(
        head(&[headers_only, empty], 2),
        Ok(0),
        "a quorum never had it, so no quorum ever acknowledged it"
    );
}

#[test]
fn s20_what_is_damaged_everywhere_is_waited_for() {
    let damaged = Ballot::new(0, 0, &[0]).faulty(1);
    let empty = Ballot::new(0, 0, &[]);
    assert_eq!(head(&[damaged, empty], 2), Err(Undecided::Op(Op::new(1))));
    let damaged = Ballot::new(0, 0, &[0]).faulty(1);
    let holder = Ballot::new(0, 0, &[0]);
    assert_eq!(head(&[damaged, Ballot::new(0, 0, &[]), holder], 2), Ok(1));
}

#[test]
fn s21_a_quorum_of_three_of_five_must_deny_and_the_damaged_does_not() {
    let mut ballots = vec![
        Ballot::new(1, 0, &[0]).faulty(1),
        Ballot::new(0, 0, &[]),
        Ballot::new(0, 0, &[]),
    ];
    assert_eq!(head(&ballots, 3), Err(Undecided::Op(Op::new(1))));
    ballots.push(Ballot::new(0, 0, &[]));
    assert_eq!(head(&ballots, 3), Ok(0));
}

#[test]
fn an_unreadable_header_is_taken_from_another_vote_or_waited_for() {
    let blank = Ballot::new(2, 0, &[0, 2, 2]).blank(2);
    let whole = Ballot::new(2, 0, &[0, 2]);
    let (chosen, _, headers) = choice(&[blank, whole], 2).expect("decided");
    assert_eq!(chosen, Op::new(3));
    assert_eq!(headers, chain(&[0, 2, 2]));
    let blank = Ballot::new(2, 0, &[0, 2, 2]).blank(2);
    let other = Ballot::new(1, 0, &[0]);
    assert_eq!(head(&[blank, other], 2), Err(Undecided::Op(Op::new(2))));
}

#[test]
fn what_is_committed_stays_whoever_holds_it() {
    let committed = Ballot::new(1, 2, &[0, 1]).faulty(2);
    let empty = Ballot::new(0, 0, &[]);
    assert_eq!(head(&[committed, empty], 2), Ok(2));
}

#[test]
fn a_pipeline_before_the_end_everything_is_committed() {
    let views = [0_u64; PIPELINE + 2];
    let mut long = Ballot::new(1, 0, &views);
    for op in 1..=views.len() as u64 {
        long = long.missing(op);
    }
    let empty = Ballot::new(0, 0, &[]);
    assert_eq!(
        head(&[long, empty], 2),
        Ok(2),
        "what may be undecided goes, no more"
    );
}

#[test]
fn votes_of_one_view_that_differ_stop_the_cluster() {
    let one = Ballot::new(2, 0, &[0, 1]);
    let other = Ballot::new(2, 0, &[0, 2]);
    assert_eq!(
        head(&[one, other], 2),
        Err(Undecided::Contradiction(Op::new(2)))
    );
}

#[test]
fn a_commit_number_beyond_the_newest_log_stops_the_cluster() {
    let newest = Ballot::new(2, 0, &[0]);
    let older = Ballot::new(1, 2, &[0, 1]);
    assert_eq!(
        head(&[newest, older], 2),
        Err(Undecided::Contradiction(Op::new(2)))
    );
}

#[test]
fn a_denial_needs_proof() {
    // Its log is longer and of an older view: what it has at op 1 it does not show.
    let newest = Ballot::new(2, 0, &[2]).faulty(1);
    let mut silent = Ballot::new(1, 0, &[0, 0, 0]);
    silent.headers.remove(0);
    silent.suffix.present[0] = 0;
    assert_eq!(head(&[newest, silent], 2), Err(Undecided::Op(Op::new(1))));
}

//! Digests at agreed ops: the last ones taken here, and the last ones the others told (N16).
//!
//! Replicas that execute the same operations hold the same state; a digest says whether they do. It
//! is taken at the first op of every period of *replicated* time, so that all take it at the same
//! ops whatever the load is, and it travels on pings and heartbeats. Whoever finds itself outvoted by
//! a quorum fences itself; when no value can win a quorum any more, everybody stops.

use vsr_types::body::DigestReport;
use vsr_types::limits::REPLICAS_MAX;
use vsr_types::{Digest, Op, ReplicaIndex};

/// How many digests are remembered: at ten a second, six seconds of lag can still be compared.
const REMEMBERED: usize = 64;
/// How many reports of each peer are remembered, to count votes.
const REPORTS: usize = 16;

/// What comparing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Nothing to compare with yet.
    Unknown,
    /// Equal at this op.
    Equal,
    /// Different, and this replica is with a quorum, or it may still turn out to be.
    PeerDiffers,
    /// A quorum holds another digest at this op, or no digest can win a quorum any more.
    Outvoted(Op),
}

#[derive(Debug)]
pub(crate) struct Digests {
    own: [DigestReport; REMEMBERED],
    own_next: usize,
    reports: [[DigestReport; REPORTS]; REPLICAS_MAX],
    report_next: [usize; REPLICAS_MAX],
}

impl Digests {
    pub(crate) fn new() -> Self {
        Self {
            own: [DigestReport::default(); REMEMBERED],
            own_next: 0,
            reports: [[DigestReport::default(); REPORTS]; REPLICAS_MAX],
            report_next: [0; REPLICAS_MAX],
        }
    }

    /// The newest digest taken here.
    pub(crate) const fn newest(&self) -> DigestReport {
        self.own[(self.own_next + REMEMBERED - 1) % REMEMBERED]
    }

    /// The digest taken at `op`, if it is still remembered.
    pub(crate) fn at(&self, op: Op) -> Option<Digest> {
        let found = self
            .own
            .iter()
            .find(|report| report.op == op && op != Op::ZERO);
        found.map(|report| report.digest)
    }

    /// Remembers the digest taken here at `op`, which is later than all before.
    pub(crate) fn record(&mut self, op: Op, digest: Digest) {
        assert!(op > self.newest().op, "digests are taken in order");
        self.own[self.own_next] = DigestReport { op, digest };
        self.own_next = (self.own_next + 1) % REMEMBERED;
    }

    /// Remembers what `peer` reports.
    pub(crate) fn hear(&mut self, peer: ReplicaIndex, report: DigestReport) {
        let reports = &mut self.reports[peer.as_usize()];
        if report.op == Op::ZERO || reports.iter().any(|known| known.op == report.op) {
            return;
        }
        let next = &mut self.report_next[peer.as_usize()];
        reports[*next] = report;
        *next = (*next + 1) % REPORTS;
    }

    fn report_of(&self, peer: ReplicaIndex, op: Op) -> Option<Digest> {
        let reports = &self.reports[peer.as_usize()];
        reports
            .iter()
            .find(|report| report.op == op)
            .map(|report| report.digest)
    }

    /// Counts the votes at `op` among all `replicas`, this one being `me`. `may_vote` says which
    /// peers that have not reported at this op may still do so.
    pub(crate) fn compare(
        &self,
        op: Op,
        me: ReplicaIndex,
        replicas: u8,
        may_vote: impl Fn(ReplicaIndex) -> bool,
    ) -> Comparison {
        let Some(own) = self.at(op) else {
            return Comparison::Unknown;
        };
        let quorum = replicas / 2 + 1;
        let (mut same, mut unknown, mut different) = (1_u8, 0_u8, 0_u8);
        for peer in ReplicaIndex::all(replicas).filter(|&peer| peer != me) {
            match self.report_of(peer, op) {
                Some(digest) if digest == own => same += 1,
                Some(_) => different += 1,
                None if may_vote(peer) => unknown += 1,
                None => {}
            }
        }
        if different == 0 {
            return if same > 1 {
                Comparison::Equal
            } else {
                Comparison::Unknown
            };
        }
        if same + unknown < quorum {
            Comparison::Outvoted(op)
        } else {
            Comparison::PeerDiffers
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: ReplicaIndex = ReplicaIndex::new(0);

    fn report(op: u64, digest: u128) -> DigestReport {
        DigestReport {
            op: Op::new(op),
            digest: Digest::new(digest),
        }
    }

    fn digests(own: u128, others: &[Option<u128>]) -> (Digests, u8) {
        let mut digests = Digests::new();
        digests.record(Op::new(10), Digest::new(own));
        for (i, other) in others.iter().enumerate() {
            if let Some(digest) = other {
                digests.hear(ReplicaIndex::new(i as u8 + 1), report(10, *digest));
            }
        }
        (digests, others.len() as u8 + 1)
    }

    #[test]
    fn votes_decide_who_is_fenced() {
        use Comparison::{Equal, Outvoted, PeerDiffers, Unknown};
        let outvoted = Outvoted(Op::new(10));
        // own digest, the others', whether silent peers may still vote -> the verdict
        let table: [(u128, &[Option<u128>], bool, Comparison); 10] = [
            (1, &[None, None], true, Unknown),
            (1, &[Some(1), None], true, Equal),
            (1, &[Some(2), None], true, PeerDiffers), // R2 may agree with us
            (1, &[Some(2), None], false, outvoted),   // nobody is left who might
            (1, &[Some(2), Some(1)], true, PeerDiffers), // R1 is the minority
            (1, &[Some(2), Some(2)], true, outvoted), // we are
            (1, &[Some(2), Some(3)], true, outvoted), // nobody has a quorum
            (1, &[Some(2)], true, outvoted),          // nor of two
            (1, &[Some(2), Some(1), Some(1), None], false, PeerDiffers),
            (1, &[Some(2), Some(2), Some(1), Some(2)], false, outvoted),
        ];
        for (own, others, may_vote, expected) in table {
            let (digests, replicas) = digests(own, others);
            let verdict = digests.compare(Op::new(10), ME, replicas, |_| may_vote);
            assert_eq!(verdict, expected, "{own} against {others:?}");
        }
    }

    #[test]
    fn old_digests_are_forgotten_and_new_ones_found() {
        let mut digests = Digests::new();
        for op in 1..=(REMEMBERED as u64 + 5) {
            digests.record(Op::new(op), Digest::new(u128::from(op)));
        }
        assert_eq!(digests.at(Op::new(5)), None);
        assert_eq!(digests.at(Op::new(6)), Some(Digest::new(6)));
        assert_eq!(digests.newest().op, Op::new(REMEMBERED as u64 + 5));
        assert_eq!(digests.at(Op::ZERO), None, "an unused place is no digest");
    }
}

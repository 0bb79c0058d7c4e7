//! Digests at agreed ops: the last ones taken here, and the last ones the others told (N16).
//!
//! Replicas that execute the same operations hold the same state; a digest says whether they do. It
//! is taken at the first op of every period of *replicated* time, so that all take it at the same
//! ops whatever the load is, and it travels on pings and heartbeats: the newest one, and as long as
//! somebody's differs from one that was taken here, that one too, so that everybody learns of it and
//! can vote. Whoever finds that a quorum has another digest fences itself and resynchronises; when no
//! value can win a quorum any more, everybody stops.

use vsr_types::body::DigestReport;
use vsr_types::limits::REPLICAS_MAX;
use vsr_types::{Digest, Incarnation, Op, ReplicaIndex};

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
    /// A quorum holds another digest.
    Outvoted,
    /// This replica's digest cannot win a quorum any more, and no other one has.
    NoMajority,
}

/// Digests that differed: where, since when, and whose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DivergenceReport {
    /// The first op that was seen at which digests differ.
    pub op: Op,
    /// The last op before it at which this replica's digest was that of all who differ now: what made
    /// the states different was executed after this op and not after [`Self::op`].
    pub since: Op,
    /// What each replica said, by index; none: nothing about this op.
    pub digests: [Option<Digest>; REPLICAS_MAX],
}

/// What one peer said.
#[derive(Clone, Copy, Debug)]
struct Reports {
    /// In which life.
    life: Incarnation,
    last: [DigestReport; REPORTS],
    next: usize,
    /// The last op at which its digest was seen to be ours.
    agreed: Op,
}

impl Reports {
    const NONE: Self = Self {
        life: Incarnation {
            counter: 0,
            random: 0,
        },
        last: [DigestReport {
            op: Op::ZERO,
            digest: Digest::ZERO,
        }; REPORTS],
        next: 0,
        agreed: Op::ZERO,
    };

    fn at(&self, op: Op) -> Option<Digest> {
        let found = self.last.iter().find(|report| report.op == op);
        found.map(|report| report.digest)
    }
}

#[derive(Debug)]
pub(crate) struct Digests {
    own: [DigestReport; REMEMBERED],
    own_next: usize,
    reports: [Reports; REPLICAS_MAX],
    /// The last op at which a quorum's digest was seen to be ours: what differed before is settled.
    settled: Op,
    /// The last op at which somebody said another digest than was taken here: all are told of it, so that
    /// whoever differs hears enough votes about one op. Zero: none.
    contested: Op,
    /// The last divergence that was seen here, for people.
    divergence: Option<DivergenceReport>,
}

impl Digests {
    pub(crate) fn new() -> Self {
        Self {
            own: [DigestReport::default(); REMEMBERED],
            own_next: 0,
            reports: [Reports::NONE; REPLICAS_MAX],
            settled: Op::ZERO,
            contested: Op::ZERO,
            divergence: None,
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

    /// What is told to everybody: the newest digest, and the one that somebody else's differs from.
    pub(crate) fn to_tell(&self) -> ([DigestReport; 2], usize) {
        let newest = self.newest();
        let contested = self.at(self.contested).map(|digest| DigestReport {
            op: self.contested,
            digest,
        });
        match contested {
            Some(contested) if contested.op != newest.op => ([newest, contested], 2),
            _ => ([newest, DigestReport::default()], 1),
        }
    }

    /// The last divergence that was seen here.
    pub(crate) const fn divergence(&self) -> Option<&DivergenceReport> {
        self.divergence.as_ref()
    }

    /// Remembers the digest taken here at `op`, which is later than all before.
    pub(crate) fn record(&mut self, op: Op, digest: Digest) {
        assert!(op > self.newest().op, "digests are taken in order");
        self.own[self.own_next] = DigestReport { op, digest };
        self.own_next = (self.own_next + 1) % REMEMBERED;
    }

    /// Remembers what `peer` reports in its life `life`. What it said in an earlier one is no vote any
    /// more: that state is gone.
    /// Says whether it differs from what was taken here, and is news.
    pub(crate) fn hear(
        &mut self,
        peer: ReplicaIndex,
        life: Incarnation,
        report: DigestReport,
    ) -> bool {
        let reports = &mut self.reports[peer.as_usize()];
        if reports.life != life {
            *reports = Reports {
                life,
                ..Reports::NONE
            };
            self.contested = Op::ZERO;
        }
        if report.op == Op::ZERO {
            return false;
        }
        if reports.at(report.op).is_none() {
            reports.last[reports.next] = report;
            reports.next = (reports.next + 1) % REPORTS;
        }
        let differs = self.at(report.op).is_some_and(|own| own != report.digest);
        let is_news = differs && self.contested != report.op;
        if differs {
            self.contested = report.op;
        }
        is_news
    }

    /// Counts the votes at `op` among all `replicas`, this one being `me`. `may_vote` says which
    /// peers that have not reported at this op may still do so.
    pub(crate) fn compare(
        &mut self,
        op: Op,
        me: ReplicaIndex,
        replicas: u8,
        may_vote: impl Fn(ReplicaIndex) -> bool,
    ) -> Comparison {
        let Some(own) = self.at(op).filter(|_| op >= self.settled) else {
            return Comparison::Unknown;
        };
        let quorum = replicas / 2 + 1;
        let (mut same, mut unknown, mut different) = (1_u8, 0_u8, 0_u8);
        for peer in ReplicaIndex::all(replicas).filter(|&peer| peer != me) {
            let reports = &mut self.reports[peer.as_usize()];
            match reports.at(op) {
                Some(digest) if digest == own => {
                    same += 1;
                    reports.agreed = reports.agreed.max(op);
                }
                Some(_) => different += 1,
                None if may_vote(peer) => unknown += 1,
                None => {}
            }
        }
        if different > 0 {
            self.note_divergence(op, own, me, replicas);
        }
        if same >= quorum {
            self.settled = op;
        }
        if different == 0 {
            return if same > 1 {
                Comparison::Equal
            } else {
                Comparison::Unknown
            };
        }
        if same + unknown >= quorum {
            Comparison::PeerDiffers
        } else if self.is_outvoted(op, replicas, me) {
            Comparison::Outvoted
        } else {
            Comparison::NoMajority
        }
    }

    /// Whether a quorum of others says the same of `op`, whose digest differs here, or of a later op: this
    /// replica, which has stopped, is not among them.
    pub(crate) fn is_outvoted(&self, op: Op, replicas: u8, me: ReplicaIndex) -> bool {
        let quorum = usize::from(replicas / 2 + 1);
        let others = || ReplicaIndex::all(replicas).filter(move |&peer| peer != me);
        let votes = |at: Op, digest: Digest| {
            let agrees = |peer: &ReplicaIndex| {
                self.reports[peer.as_usize()]
                    .at(at)
                    .is_some_and(|told| told == digest)
            };
            others().filter(agrees).count()
        };
        let told = others().flat_map(|peer| self.reports[peer.as_usize()].last);
        told.filter(|report| report.op >= op && Some(report.digest) != self.at(report.op))
            .any(|report| votes(report.op, report.digest) >= quorum)
    }

    /// Whether a quorum, this replica among it, says the same of the state after `op`.
    pub(crate) fn is_with_quorum(&self, op: Op, replicas: u8, me: ReplicaIndex) -> bool {
        let Some(own) = self.at(op) else {
            return false;
        };
        let same = ReplicaIndex::all(replicas)
            .filter(|&peer| peer != me)
            .filter(|peer| self.reports[peer.as_usize()].at(op) == Some(own))
            .count();
        same + 1 >= usize::from(replicas / 2 + 1)
    }

    /// Notes who differs at `op`. Of several ops the first one counts, as long as it is not settled.
    fn note_divergence(&mut self, op: Op, own: Digest, me: ReplicaIndex, replicas: u8) {
        let is_open = |known: &DivergenceReport| known.op < op && known.op > self.settled;
        if self.divergence.as_ref().is_some_and(is_open) {
            return;
        }
        let mut report = DivergenceReport {
            op,
            since: op,
            ..DivergenceReport::default()
        };
        report.digests[me.as_usize()] = Some(own);
        for peer in ReplicaIndex::all(replicas).filter(|&peer| peer != me) {
            let reports = &self.reports[peer.as_usize()];
            let told = reports.at(op);
            report.digests[peer.as_usize()] = told;
            if told.is_some_and(|told| told != own) {
                report.since = report.since.min(reports.agreed);
            }
        }
        self.divergence = Some(report);
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
                let life = Incarnation::default();
                digests.hear(ReplicaIndex::new(i as u8 + 1), life, report(10, *digest));
            }
        }
        (digests, others.len() as u8 + 1)
    }

    #[test]
    fn votes_decide_who_is_fenced() {
        use Comparison::{Equal, NoMajority, Outvoted, PeerDiffers, Unknown};
        // own digest, the others', whether silent peers may still vote -> the verdict
        let table: [(u128, &[Option<u128>], bool, Comparison); 13] = [
            (1, &[None, None], true, Unknown),
            (1, &[Some(1), None], true, Equal),
            (1, &[Some(2), None], true, PeerDiffers), // R2 may agree with us
            (1, &[Some(2), None], false, NoMajority), // nobody is left who might
            (1, &[Some(2), Some(1)], true, PeerDiffers), // R1 is the minority
            (1, &[Some(2), Some(2)], true, Outvoted), // we are
            (1, &[Some(2), Some(3)], true, NoMajority), // nobody has a quorum
            (1, &[Some(2)], true, NoMajority),        // nor of two
            (1, &[Some(2), Some(1), Some(1), None], false, PeerDiffers),
            (1, &[Some(2), Some(2), Some(1), Some(2)], false, Outvoted),
            (1, &[Some(2), Some(2), Some(1)], false, NoMajority), // two against two
            (1, &[Some(2), Some(2), Some(3), None], true, NoMajority), // R4 may still decide it
            (1, &[Some(2), Some(2), Some(3), Some(2)], true, Outvoted), // and does
        ];
        for (own, others, may_vote, expected) in table {
            let (mut digests, replicas) = digests(own, others);
            let verdict = digests.compare(Op::new(10), ME, replicas, |_| may_vote);
            assert_eq!(verdict, expected, "{own} against {others:?}");
        }
    }

    #[test]
    fn a_difference_is_told_until_it_is_settled_and_its_evidence_stays() {
        let (mut digests, replicas) = digests(1, &[Some(1), Some(2)]);
        let life = Incarnation::default();
        let [one, two] = [1, 2].map(ReplicaIndex::new);
        // A first op at which nothing is known to differ.
        assert_eq!(digests.to_tell().1, 1);
        assert_eq!(
            digests.compare(Op::new(10), ME, replicas, |_| true),
            Comparison::PeerDiffers
        );
        assert_eq!(digests.to_tell().1, 1, "it is the newest one anyway");
        let seen = *digests.divergence().expect("it was seen");
        assert_eq!((seen.op, seen.since), (Op::new(10), Op::ZERO));
        let digest = |n| Some(Digest::new(n));
        assert_eq!(seen.digests[..3], [digest(1), digest(1), digest(2)]);
        // Another life of R2 agrees, then differs, and R1 says nothing yet.
        let reborn = Incarnation {
            counter: 1,
            random: 7,
        };
        for op in [20, 30] {
            digests.record(Op::new(op), Digest::new(5));
            digests.hear(two, reborn, report(op, if op == 20 { 5 } else { 6 }));
            digests.compare(Op::new(op), ME, replicas, |_| true);
        }
        digests.record(Op::new(40), Digest::new(7));
        let (told, count) = digests.to_tell();
        assert_eq!((told[1], count), (report(30, 5), 2));
        let seen = *digests.divergence().expect("it was seen");
        assert_eq!((seen.op, seen.since), (Op::new(30), Op::new(20)));
        assert_eq!(seen.digests[..3], [digest(5), None, digest(6)]);
        digests.hear(one, life, report(30, 6));
        let verdict = digests.compare(Op::new(30), ME, replicas, |_| true);
        assert_eq!(verdict, Comparison::Outvoted);
    }

    #[test]
    fn who_has_stopped_hears_that_the_others_agree_later() {
        let (mut digests, replicas) = digests(1, &[Some(2), Some(3), None, None]);
        let verdict = digests.compare(Op::new(10), ME, replicas, |_| false);
        assert_eq!(verdict, Comparison::NoMajority);
        for peer in 1..4 {
            assert!(!digests.is_outvoted(Op::new(10), replicas, ME));
            let life = Incarnation::default();
            digests.hear(ReplicaIndex::new(peer), life, report(20, 4));
        }
        assert!(digests.is_outvoted(Op::new(10), replicas, ME));
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

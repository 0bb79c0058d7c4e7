//! Which answers may be believed together (R6.4, R6.5): a pure function of what arrived.
//!
//! An answer is a promise of one life of a replica: "I know your new incarnation, and this is my view".
//! If another answer knows a later life of that replica, the promise died with the earlier one (trace
//! T3), so it does not count and is asked for again. Among answers that agree on who is alive, the
//! newest view decides, and the log comes from that view's primary and from nobody else (trace T7).

use vsr_types::limits::REPLICAS_MAX;
use vsr_types::{CrashVector, Digest, Incarnation, Op, ReplicaIndex, View};

/// What one replica answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// What it knows of everybody's lives, its own included.
    pub(super) vector: CrashVector,
    /// The view in which it is normal.
    pub(super) view: View,
    /// The last op of its log.
    pub(super) op: Op,
    /// The last op it has executed.
    pub(super) applied: Op,
    /// The digest of its state after that.
    pub(super) digest: Digest,
}

/// The newest answer of each replica to the question that is asked now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answers {
    of: [Option<Answer>; REPLICAS_MAX],
    /// Whose answer came last.
    last: Option<ReplicaIndex>,
}

impl Answers {
    pub(super) const fn new() -> Self {
        Self {
            of: [None; REPLICAS_MAX],
            last: None,
        }
    }

    pub(super) fn count(&self) -> u8 {
        self.of.iter().flatten().count() as u8
    }

    /// Takes an answer unless a newer one of the same replica is here: messages overtake each other.
    pub(super) fn record(&mut self, from: ReplicaIndex, answer: Answer) -> bool {
        let age = |answer: &Answer| {
            let incarnation = answer.vector.of(from);
            (incarnation, answer.view, answer.op, answer.applied)
        };
        let slot = &mut self.of[from.as_usize()];
        if slot.is_some_and(|known| age(&known) > age(&answer)) {
            return false;
        }
        *slot = Some(answer);
        self.last = Some(from);
        true
    }

    /// Everything that `mine` and the answers know of everybody's lives.
    fn joined(&self, mine: &CrashVector) -> CrashVector {
        let all = self.of.iter().flatten();
        all.fold(*mine, |joined, answer| joined.join(&answer.vector))
    }

    /// The newest life of `replica` that anybody knows.
    pub(super) fn newest_life_of(&self, replica: ReplicaIndex) -> Incarnation {
        self.joined(&CrashVector::default()).of(replica)
    }

    /// Drops the answers of lives that have ended since, as others or `mine` show (R6.4). Says how
    /// many.
    pub(super) fn drop_inconsistent(&mut self, mine: &CrashVector) -> u8 {
        let joined = self.joined(mine);
        let mut dropped = 0;
        for replica in ReplicaIndex::all(REPLICAS_MAX as u8) {
            let slot = &mut self.of[replica.as_usize()];
            if slot.is_some_and(|answer| answer.vector.of(replica) < joined.of(replica)) {
                *slot = None;
                dropped += 1;
            }
        }
        dropped
    }

    /// The answer that tells the log: that of the primary of the newest view among at least `quorum`
    /// answers (R6.5). None while there are too few, or that primary has not answered as such.
    pub(super) fn choose(&self, quorum: u8, replicas: u8) -> Option<(ReplicaIndex, Answer)> {
        if self.count() < quorum {
            return None;
        }
        let newest = self.of.iter().flatten().map(|answer| answer.view).max()?;
        let primary = newest.primary(replicas);
        let answer = self.of[primary.as_usize()].filter(|answer| answer.view == newest)?;
        Some((primary, answer))
    }

    /// The choice of the broken replica that takes anybody's log: the last one that came (R6.5).
    pub(super) fn choose_last(&self, quorum: u8) -> Option<(ReplicaIndex, Answer)> {
        let last = self.last.filter(|_| self.count() >= quorum)?;
        self.of[last.as_usize()].map(|answer| (last, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn r(index: u8) -> ReplicaIndex {
        ReplicaIndex::new(index)
    }

    /// A vector in which each replica named is in the life with this counter.
    fn vector(lives: &[(u8, u64)]) -> CrashVector {
        let mut vector = CrashVector::default();
        for &(replica, counter) in lives {
            vector.raise(r(replica), Incarnation { counter, random: 1 });
        }
        vector
    }

    fn answer(view: u64, op: u64, lives: &[(u8, u64)]) -> Answer {
        Answer {
            vector: vector(lives),
            view: View::new(view),
            op: Op::new(op),
            applied: Op::ZERO,
            digest: Digest::ZERO,
        }
    }

    #[test]
    fn the_log_is_that_of_the_newest_views_primary() {
        let mut answers = Answers::new();
        answers.record(r(0), answer(0, 9, &[]));
        assert_eq!(
            answers.choose(2, 3),
            None,
            "one answer is not a quorum (T6)"
        );
        answers.record(r(1), answer(1, 5, &[]));
        let (from, log) = answers.choose(2, 3).expect("R1 leads view 1");
        assert_eq!((from, log.op), (r(1), Op::new(5)), "not the longest log");
    }

    #[test]
    fn without_the_newest_views_primary_nothing_is_chosen() {
        // Five replicas: R0 still believes to lead view 0, the others are in view 1 (T7's last case).
        let mut answers = Answers::new();
        for (replica, view) in [(0, 0), (3, 1), (4, 1)] {
            answers.record(r(replica), answer(view, 3, &[]));
        }
        assert_eq!(answers.choose(3, 5), None);
        // R1 answers from the old view: it does not lead view 1 yet as far as it knows.
        answers.record(r(1), answer(0, 3, &[]));
        assert_eq!(answers.choose(3, 5), None);
        answers.record(r(1), answer(1, 3, &[]));
        assert_eq!(answers.choose(3, 5).map(|(from, _)| from), Some(r(1)));
    }

    #[test]
    fn an_answer_of_a_life_that_ended_is_dropped() {
        // Trace T3: R3 answered and crashed; R4 knows its new life.
        let mut answers = Answers::new();
        answers.record(r(3), answer(0, 0, &[(2, 1)]));
        answers.record(r(0), answer(0, 0, &[(2, 1)]));
        assert_eq!(answers.drop_inconsistent(&CrashVector::default()), 0);
        answers.record(r(4), answer(0, 0, &[(2, 1), (3, 1)]));
        assert_eq!(answers.drop_inconsistent(&CrashVector::default()), 1);
        assert_eq!(answers.count(), 2);
        assert_eq!(answers.choose(3, 5), None);
        answers.record(r(3), answer(0, 0, &[(2, 1), (3, 1)]));
        assert_eq!(answers.drop_inconsistent(&CrashVector::default()), 0);
        assert_eq!(answers.choose(3, 5).map(|(from, _)| from), Some(r(0)));
    }

    #[test]
    fn what_the_asker_knows_itself_drops_answers_too() {
        let mut answers = Answers::new();
        answers.record(r(0), answer(0, 0, &[]));
        assert_eq!(answers.drop_inconsistent(&vector(&[(0, 1)])), 1);
    }

    #[test]
    fn an_answer_that_was_overtaken_does_not_replace_a_newer_one() {
        let mut answers = Answers::new();
        assert!(answers.record(r(0), answer(3, 7, &[])));
        assert!(!answers.record(r(0), answer(0, 9, &[])));
        assert!(answers.record(r(0), answer(3, 8, &[])));
        let next_life = answer(0, 0, &[(0, 1)]);
        assert!(
            answers.record(r(0), next_life),
            "a later life is newer, whatever its view"
        );
        assert_eq!(answers.count(), 1);
    }
}

//! A counter that is only incremented: every increment returns a number of its own.

use super::{Findings, Seen, deadlines, grows};

/// What happened to one counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter {
    /// Increments that were answered, and reads.
    pub(crate) seen: Vec<Seen>,
    /// When increments of unknown outcome began.
    pub(crate) unknown: Vec<u64>,
}

impl Counter {
    /// Checks the whole history against the value that the counter has in the end.
    pub(crate) fn check(mut self, what: &str, last: u64) -> Findings {
        let mut findings = Findings::default();
        findings.checked += self.unknown.len() as u64;
        grows(what, &self.seen, &mut findings);
        let mut made: Vec<u64> = self
            .seen
            .iter()
            .filter(|seen| seen.made)
            .map(|seen| seen.value)
            .collect();
        made.sort_unstable();
        made.dedup();
        let highest = self.seen.iter().map(|seen| seen.value).max().unwrap_or(0);
        let (acknowledged, unknown) = (made.len() as u64, self.unknown.len() as u64);
        if last < highest || last < acknowledged || last > acknowledged + unknown {
            findings.wrong(format!(
                "{what}: ends at {last} after {acknowledged} acknowledged and {unknown} unknown \
                 increments, of which one returned {highest}"
            ));
            return findings;
        }
        // Numbers that nobody was told belong to increments of unknown outcome that began in time.
        let gaps: Vec<u64> = (1..=last)
            .filter(|value| made.binary_search(value).is_err())
            .collect();
        self.unknown.sort_unstable();
        let in_time = deadlines(&gaps, &self.seen);
        for ((gap, deadline), began) in gaps.iter().zip(in_time).zip(&self.unknown) {
            if *began > deadline {
                findings.wrong(format!(
                    "{what}: {gap} was counted by {deadline} ns, and no increment that could have \
                     made it had begun"
                ));
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(start: u64, end: u64, value: u64) -> Seen {
        Seen {
            start,
            end,
            value,
            made: true,
        }
    }

    fn read(start: u64, end: u64, value: u64) -> Seen {
        Seen {
            made: false,
            ..made(start, end, value)
        }
    }

    fn anomalies(seen: &[Seen], unknown: &[u64], last: u64) -> u64 {
        let counter = Counter {
            seen: seen.to_vec(),
            unknown: unknown.to_vec(),
        };
        counter.check("c", last).anomalies
    }

    #[test]
    fn lost_doubled_and_reordered_increments_are_found() {
        let (one, two) = (made(1, 2, 1), made(3, 4, 2));
        assert_eq!(anomalies(&[one, two], &[], 2), 0);
        assert_eq!(anomalies(&[one, two], &[], 1), 1, "lost");
        assert_eq!(anomalies(&[one, two], &[], 3), 1, "doubled");
        assert_eq!(anomalies(&[one, two], &[2], 3), 0, "the unknown one");
        assert_eq!(anomalies(&[made(1, 2, 2), made(3, 4, 1)], &[], 2), 1);
        assert_ne!(anomalies(&[one, made(3, 4, 1)], &[5], 2), 0, "told twice");
    }

    #[test]
    fn reads_see_what_was_acknowledged_before_them_and_nothing_from_later() {
        let (one, two) = (made(1, 2, 1), made(10, 12, 2));
        assert_eq!(
            anomalies(&[one, two, read(3, 4, 1), read(11, 13, 1)], &[], 2),
            0
        );
        assert_eq!(anomalies(&[one, two, read(13, 14, 1)], &[], 2), 1, "stale");
        assert_eq!(
            anomalies(&[one, two, read(3, 4, 2)], &[], 2),
            1,
            "from later"
        );
    }

    #[test]
    fn a_gap_needs_an_unknown_increment_that_had_begun() {
        let seen = [made(1, 2, 1), made(3, 4, 3)];
        assert_eq!(anomalies(&seen, &[2], 3), 0);
        assert_eq!(anomalies(&seen, &[5], 3), 1);
        assert_eq!(anomalies(&[read(3, 4, 1)], &[3], 1), 0);
        assert_eq!(anomalies(&[read(3, 4, 1)], &[5], 1), 1);
    }
}

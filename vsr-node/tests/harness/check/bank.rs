//! Accounts between which money is moved: the sum stays, and every balance can be recomputed.
//!
//! Every transfer also increments a version in the same transaction, so that the order of all of them is
//! known. The balances are replayed in that order; behind a transfer that nobody was told of, they are
//! unknown until somebody sees them again.

use super::counter::Counter;
use super::{Findings, Seen};

/// A transfer that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) version: u64,
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The balances of both that it was based on.
    pub(crate) before: (i64, i64),
    /// And those that it left.
    pub(crate) after: (i64, i64),
}

/// A read of everything at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) version: u64,
    pub(crate) balances: Vec<i64>,
}

/// What happened to the bank.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bank {
    pub(crate) moves: Vec<Move>,
    pub(crate) snapshots: Vec<Snapshot>,
    /// When transfers of unknown outcome began.
    pub(crate) unknown: Vec<u64>,
}

/// Something that shows balances, at its place in the order.
enum Sight<'a> {
    Move(&'a Move),
    Snapshot(&'a Snapshot),
}

impl Sight<'_> {
    const fn version(&self) -> u64 {
        match self {
            Self::Move(moved) => moved.version,
            Self::Snapshot(snapshot) => snapshot.version,
        }
    }
}

impl Bank {
    /// Checks the whole history of a bank that began with `each` in every account.
    pub(crate) fn check(self, each: i64, last: Snapshot) -> Findings {
        let accounts = last.balances.len();
        let last_version = last.version;
        let mut snapshots = self.snapshots;
        snapshots.push(last);
        let made = self.moves.iter().map(|moved| Seen {
            start: moved.start,
            end: moved.end,
            value: moved.version,
            made: true,
        });
        let read = snapshots.iter().map(|snapshot| Seen {
            start: snapshot.start,
            end: snapshot.end,
            value: snapshot.version,
            made: false,
        });
        let versions = Counter {
            seen: made.chain(read).collect(),
            unknown: self.unknown,
        };
        let mut findings = versions.check("the bank's version", last_version);
        let total = each * accounts as i64;
        for snapshot in &snapshots {
            if snapshot.balances.iter().sum::<i64>() != total {
                findings.wrong(format!("the bank's sum is not {total}: {snapshot:?}"));
            }
        }
        let mut sights: Vec<Sight<'_>> = self.moves.iter().map(Sight::Move).collect();
        sights.extend(snapshots.iter().map(Sight::Snapshot));
        // A snapshot of a version comes after the transfer that made it.
        sights.sort_by_key(|sight| (sight.version(), matches!(sight, Sight::Snapshot(_))));
        replay(&sights, vec![Some(each); accounts], &mut findings);
        findings
    }
}

fn replay(sights: &[Sight<'_>], mut balances: Vec<Option<i64>>, findings: &mut Findings) {
    let mut version = 0;
    for sight in sights {
        let is_next = match sight {
            Sight::Move(_) => sight.version() == version + 1,
            Sight::Snapshot(_) => sight.version() == version,
        };
        if !is_next {
            balances.fill(None);
        }
        version = sight.version();
        let mut compare = |account: usize, seen: i64| {
            if balances[account].is_some_and(|known| known != seen) {
                findings.wrong(format!(
                    "account {account} at version {version} is {seen} and should be {:?}",
                    balances[account]
                ));
            }
            balances[account] = Some(seen);
        };
        match sight {
            Sight::Move(moved) => {
                compare(moved.from, moved.before.0);
                compare(moved.to, moved.before.1);
                balances[moved.from] = Some(moved.after.0);
                balances[moved.to] = Some(moved.after.1);
            }
            Sight::Snapshot(snapshot) => {
                for (account, seen) in snapshot.balances.iter().enumerate() {
                    compare(account, *seen);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(version: u64, before: (i64, i64), after: (i64, i64)) -> Move {
        let start = version * 10;
        Move {
            start,
            end: start + 5,
            version,
            from: 0,
            to: 1,
            before,
            after,
        }
    }

    fn last(version: u64, balances: [i64; 2]) -> Snapshot {
        Snapshot {
            start: 1000,
            end: 1001,
            version,
            balances: balances.to_vec(),
        }
    }

    fn anomalies(moves: &[Move], unknown: &[u64], last: Snapshot) -> u64 {
        let bank = Bank {
            moves: moves.to_vec(),
            snapshots: Vec::new(),
            unknown: unknown.to_vec(),
        };
        bank.check(100, last).anomalies
    }

    #[test]
    fn a_sum_that_changes_and_a_transfer_on_old_balances_are_found() {
        let first = moved(1, (100, 100), (90, 110));
        let second = moved(2, (90, 110), (70, 130));
        assert_eq!(anomalies(&[first, second], &[], last(2, [70, 130])), 0);
        assert_ne!(anomalies(&[first, second], &[], last(2, [70, 110])), 0);
        assert_ne!(anomalies(&[first, second], &[], last(2, [90, 110])), 0);
        let stale = moved(2, (100, 100), (80, 120));
        assert_ne!(anomalies(&[first, stale], &[], last(2, [80, 120])), 0);
    }

    #[test]
    fn behind_an_unknown_transfer_balances_are_learnt_again() {
        let first = moved(1, (100, 100), (90, 110));
        let third = moved(3, (85, 115), (80, 120));
        assert_eq!(anomalies(&[first, third], &[12], last(3, [80, 120])), 0);
        assert_ne!(anomalies(&[first, third], &[], last(3, [80, 120])), 0);
    }
}

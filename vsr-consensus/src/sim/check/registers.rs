//! A search for an order that explains what clients saw of a register (Wing and Gong 1993, with the
//! memory of Lowe 2017).
//!
//! It knows only when operations began and ended and what they returned, nothing of op numbers: a
//! cluster whose numbers lie is found out here. The history of a register is cut at moments at which
//! nothing is under way; what it may hold then is carried over.

use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

use super::{Checked, ensure};
use crate::sim::Observation;
use crate::sim::plan::Time;

/// One operation on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    began: Time,
    /// [`Time::MAX`]: nobody knows whether it was executed, then or ever.
    ended: Time,
    before: Option<u64>,
    after: Option<u64>,
}

#[derive(Clone, Debug)]
struct Register {
    /// What it may hold, and for each such case which of `open` took effect, as bits.
    cases: Vec<(u64, u64)>,
    /// Operations of which nobody knows whether they took, or will ever take, effect.
    open: Vec<Entry>,
    entries: Vec<Entry>,
    under_way: u32,
    /// Its history became too entangled to follow.
    given_up: bool,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            cases: vec![(0, 0)],
            open: Vec::new(),
            entries: Vec::new(),
            under_way: 0,
            given_up: false,
        }
    }
}

/// How many operations a window may have, those without an end included.
const WINDOW_MAX: usize = 56;
/// How many operations without an end are followed.
const OPEN_MAX: usize = 8;
/// How many steps a search may take.
const STEPS_MAX: usize = 20_000;

/// The registers' histories.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    registers: BTreeMap<u64, Register>,
    /// Windows searched.
    pub(crate) windows: u64,
    /// Operations in them.
    pub(crate) explained: u64,
    /// Registers that were given up.
    pub(crate) given_up: u64,
}

impl Registers {
    /// An operation on `key` begins.
    pub(crate) fn begin(&mut self, key: u64) {
        self.registers.entry(key).or_default().under_way += 1;
    }

    /// An operation that began at `began` ends now with this observation.
    pub(crate) fn end(&mut self, began: Time, now: Time, seen: &Observation) -> Checked {
        let register = self.registers.entry(seen.key).or_default();
        register.under_way -= 1;
        register.entries.push(Entry {
            began,
            ended: now,
            before: seen.before,
            after: seen.after,
        });
        self.close(seen.key)
    }

    /// An operation on `key` ends without an answer and without effect.
    pub(crate) fn cancel(&mut self, key: u64) -> Checked {
        let register = self.registers.entry(key).or_default();
        register.under_way -= 1;
        self.close(key)
    }

    /// Nobody will ever know what became of an operation: it may take effect at any time.
    pub(crate) fn abandon(&mut self, began: Time, seen: &Observation) -> Checked {
        let register = self.registers.entry(seen.key).or_default();
        register.under_way -= 1;
        register.open.push(Entry {
            began,
            ended: Time::MAX,
            before: None,
            after: seen.after,
        });
        self.close(seen.key)
    }

    /// Searches the window of `key` if it is closed.
    fn close(&mut self, key: u64) -> Checked {
        let Some(register) = self.registers.get_mut(&key) else {
            return Ok(());
        };
        let size = register.entries.len() + register.open.len();
        if register.given_up {
            register.entries.clear();
            register.open.clear();
            return Ok(());
        }
        if size >= WINDOW_MAX || register.open.len() > OPEN_MAX {
            register.given_up = true;
            self.given_up += 1;
            return Ok(());
        }
        if register.under_way > 0 || register.entries.is_empty() {
            return Ok(());
        }
        match register.search() {
            Search::Explained(cases) => {
                self.windows += 1;
                self.explained += register.entries.len() as u64;
                register.entries.clear();
                register.go_on(cases);
                Ok(())
            }
            Search::TooLong => {
                self.given_up += 1;
                register.given_up = true;
                Ok(())
            }
            Search::Impossible => {
                let Register {
                    cases,
                    entries,
                    open,
                    ..
                } = register;
                ensure!(
                    false,
                    "linearizability of registers",
                    "no order explains what clients saw of register {key}, which held one of \
                     {cases:?} with {open:?} open: {entries:?}"
                );
                Ok(())
            }
        }
    }
}

enum Search {
    /// In at least one way; what the register may hold afterwards, and what of the open operations
    /// took effect.
    Explained(BTreeSet<(u64, u64)>),
    Impossible,
    TooLong,
}

impl Register {
    /// Tries every order that real time allows: next may come whatever began before the first end of
    /// all that is left. The open operations come first in the bits, and need not come at all.
    fn search(&self) -> Search {
        let entries: Vec<Entry> = self.open.iter().chain(&self.entries).copied().collect();
        assert!(entries.len() < 64, "one bit for each entry");
        let open = (1_u64 << self.open.len()) - 1;
        let needed = ((1_u64 << entries.len()) - 1) & !open;
        let mut stack = self.cases.clone();
        let mut met: BTreeSet<(u64, u64)> = stack.iter().copied().collect();
        let mut ends = BTreeSet::new();
        let mut steps = 0;
        while let Some((value, done)) = stack.pop() {
            steps += 1;
            if steps > STEPS_MAX {
                return Search::TooLong;
            }
            if done & needed == needed {
                ends.insert((value, done & open));
                continue;
            }
            let left = |i: &usize| done & (1 << *i) == 0;
            let ends_left = (0..entries.len()).filter(left).map(|i| entries[i].ended);
            let first_end = ends_left.min().unwrap_or(Time::MAX);
            for i in (0..entries.len()).filter(left) {
                let entry = &entries[i];
                if entry.began > first_end || entry.before.is_some_and(|before| before != value) {
                    continue;
                }
                let next = (entry.after.unwrap_or(value), done | (1 << i));
                if met.insert(next) {
                    stack.push(next);
                }
            }
        }
        if ends.is_empty() {
            Search::Impossible
        } else {
            Search::Explained(ends)
        }
    }

    /// The next window begins with these cases. What took effect in all of them is open no more.
    fn go_on(&mut self, cases: BTreeSet<(u64, u64)>) {
        self.cases = cases.into_iter().collect();
        let mut place = 0;
        while place < self.open.len() {
            if self.cases.iter().all(|(_, done)| done & (1 << place) != 0) {
                self.open.remove(place);
                let below = (1_u64 << place) - 1;
                for (_, done) in &mut self.cases {
                    *done = (*done & below) | ((*done >> 1) & !below);
                }
            } else {
                place += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swap(before: u64, after: u64) -> Observation {
        Observation {
            key: 1,
            before: Some(before),
            after: Some(after),
        }
    }

    fn read(before: u64) -> Observation {
        Observation {
            key: 1,
            before: Some(before),
            after: None,
        }
    }

    #[test]
    fn overlapping_swaps_have_an_order_and_stale_reads_have_none() {
        let mut registers = Registers::default();
        registers.begin(1);
        registers.begin(1);
        registers.end(10, 30, &swap(8, 9)).expect("still under way");
        registers
            .end(20, 40, &swap(0, 8))
            .expect("the other one was first");
        registers.begin(1);
        registers.end(50, 60, &read(9)).expect("the newest");
        assert_eq!((registers.windows, registers.explained), (2, 3));
        registers.begin(1);
        let stale = registers.end(70, 80, &read(8));
        assert_eq!(
            stale.map_err(|v| v.rule),
            Err("linearizability of registers")
        );
    }

    #[test]
    fn a_lost_and_a_doubled_write_are_found() {
        let mut registers = Registers::default();
        registers.begin(1);
        registers.end(1, 2, &swap(0, 5)).expect("the first");
        registers.begin(1);
        assert!(registers.end(3, 4, &swap(0, 6)).is_err(), "5 was lost");
        let mut registers = Registers::default();
        registers.begin(1);
        registers.end(1, 2, &swap(0, 5)).expect("the first");
        registers.begin(1);
        registers.end(3, 4, &swap(5, 6)).expect("the second");
        registers.begin(1);
        assert!(registers.end(5, 6, &read(5)).is_err(), "5 came again");
    }

    #[test]
    fn what_nobody_knows_the_outcome_of_may_happen_later_or_never() {
        let mut registers = Registers::default();
        registers.begin(1);
        registers
            .abandon(
                1,
                &Observation {
                    before: None,
                    ..swap(0, 7)
                },
            )
            .expect("who knows");
        registers.begin(1);
        registers.end(5, 6, &read(0)).expect("not yet");
        registers.begin(1);
        registers.end(7, 8, &swap(7, 8)).expect("now it did");
        registers.begin(1);
        assert!(registers.end(9, 10, &read(7)).is_err(), "but once only");
        registers.begin(2);
        registers.cancel(2).expect("nothing happened");
    }

    #[test]
    fn what_has_not_begun_has_no_effect() {
        let mut registers = Registers::default();
        registers.begin(1);
        registers.begin(1);
        registers
            .end(1, 2, &read(7))
            .expect("one is still under way");
        let late = Observation {
            before: None,
            ..swap(0, 7)
        };
        assert!(
            registers.abandon(3, &late).is_err(),
            "7 was read before it was asked for"
        );
    }
}

//! Linearizability of one register: the search of Wing and Gong with the memory of Lowe.
//!
//! A command may be next when it began before the first end among those that are left. Commands that
//! change nothing and fit are taken at once, because waiting cannot help them; otherwise all orders are
//! tried, and no set of executed commands with the same value twice.

use std::collections::{BTreeMap, HashSet};

use super::{Findings, NEVER};

/// What a command did to a register. 0 stands for "absent".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Returned this.
    Read(u64),
    /// Wrote this.
    Write(u64),
    /// Wrote `new` if there was `old`; `swapped` says whether, when that is known.
    Swap {
        old: u64,
        new: u64,
        swapped: Option<bool>,
    },
}

impl Action {
    /// The value after it, if it may happen at `value`.
    fn apply(self, value: u64) -> Option<u64> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(new) => Some(new),
            Self::Swap { old, new, swapped } => {
                let is_same = old == value;
                match swapped {
                    Some(swapped) if swapped != is_same => None,
                    _ if is_same => Some(new),
                    _ => Some(value),
                }
            }
        }
    }
}

/// A command with its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) action: Action,
}

/// Why no order was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// There is none. The events that nothing could be put in front of, where the search got furthest.
    Wrong(Vec<Event>),
    /// Too many orders to try them all.
    Undecided,
}

/// Sets of executed commands that are remembered for one register.
const SEEN_MAX: usize = 2_000_000;

struct Search {
    events: Vec<Event>,
    done: Vec<u64>,
    /// The first that is not done.
    low: usize,
    /// How many of known outcome are not done.
    left: usize,
    value: u64,
}

/// A step of the search: what was done, the value before it, and whether there was a choice.
struct Step {
    event: usize,
    value: u64,
    forced: bool,
}

impl Search {
    fn is_done(&self, event: usize) -> bool {
        self.done[event / 64] >> (event % 64) & 1 == 1
    }

    fn flip(&mut self, event: usize) {
        self.done[event / 64] ^= 1 << (event % 64);
        if self.events[event].end != NEVER {
            if self.is_done(event) {
                self.left -= 1;
            } else {
                self.left += 1;
            }
        }
        self.low = self.low.min(event);
        while self.low < self.events.len() && self.is_done(self.low) {
            self.low += 1;
        }
    }

    /// The commands that may be next.
    fn window(&self, into: &mut Vec<usize>) {
        into.clear();
        let mut first_end = NEVER;
        for index in self.low..self.events.len() {
            let event = &self.events[index];
            if event.start > first_end {
                break;
            }
            if !self.is_done(index) {
                first_end = first_end.min(event.end);
                into.push(index);
            }
        }
        into.retain(|&index| self.events[index].start <= first_end);
    }
}

/// Whether there is an order in which `events`, on a register that was absent, make sense.
pub(crate) fn linearizable(mut events: Vec<Event>) -> Verdict {
    events.sort_unstable_by_key(|event| (event.start, event.end));
    let left = events.iter().filter(|event| event.end != NEVER).count();
    let mut search = Search {
        done: vec![0; events.len().div_ceil(64)],
        low: 0,
        left,
        value: 0,
        events,
    };
    let mut seen: HashSet<(Box<[u64]>, u64)> = HashSet::new();
    let mut path: Vec<Step> = Vec::new();
    let mut window = Vec::new();
    let mut from = 0;
    let mut furthest = (usize::MAX, Vec::new());
    while search.left > 0 {
        search.window(&mut window);
        if search.left < furthest.0 {
            furthest = (search.left, window.clone());
        }
        if let Some(step) = next(&mut search, &window, from, &mut seen) {
            path.push(step);
            from = 0;
            if seen.len() > SEEN_MAX {
                return Verdict::Undecided;
            }
            continue;
        }
        // Nothing fits: the last choice was wrong.
        loop {
            let Some(step) = path.pop() else {
                let stuck = furthest.1.iter().map(|&index| search.events[index]);
                return Verdict::Wrong(stuck.collect());
            };
            search.flip(step.event);
            search.value = step.value;
            if !step.forced {
                from = step.event + 1;
                break;
            }
        }
    }
    Verdict::Linearizable
}

fn next(
    search: &mut Search,
    window: &[usize],
    from: usize,
    seen: &mut HashSet<(Box<[u64]>, u64)>,
) -> Option<Step> {
    let value = search.value;
    if from == 0 {
        // Only those of known outcome: an unknown command need not happen at all. And no writes: one that
        // changes nothing now may be what explains something later.
        let forced = window.iter().copied().find(|&index| {
            let event = &search.events[index];
            let is_write = matches!(event.action, Action::Write(_));
            event.end != NEVER && !is_write && event.action.apply(value) == Some(value)
        });
        if let Some(event) = forced {
            search.flip(event);
            return Some(Step {
                event,
                value,
                forced: true,
            });
        }
    }
    for &event in window.iter().filter(|&&index| index >= from) {
        let Some(after) = search.events[event].action.apply(value) else {
            continue;
        };
        if after == value && search.events[event].end == NEVER {
            continue; // as good as never executed
        }
        search.flip(event);
        if seen.insert((search.done.clone().into_boxed_slice(), after)) {
            search.value = after;
            return Some(Step {
                event,
                value,
                forced: false,
            });
        }
        search.flip(event);
    }
    None
}

/// Checks every register of a history on its own, which is enough (Herlihy and Wing: locality).
pub(crate) fn check(what: &str, registers: BTreeMap<u64, Vec<Event>>) -> Findings {
    let mut findings = Findings::default();
    for (key, events) in registers {
        findings.checked += events.len() as u64;
        match linearizable(events) {
            Verdict::Linearizable => {}
            Verdict::Wrong(stuck) => findings.wrong(format!(
                "{what} {key} is not linearizable; nothing fits before {stuck:?}"
            )),
            Verdict::Undecided => findings.wrong(format!(
                "{what} {key} could not be checked: too many unknown outcomes"
            )),
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr_net::Random;

    fn event(start: u64, end: u64, action: Action) -> Event {
        Event { start, end, action }
    }

    fn swap(old: u64, new: u64, swapped: Option<bool>) -> Action {
        Action::Swap { old, new, swapped }
    }

    fn is_fine(events: &[Event]) -> bool {
        linearizable(events.to_vec()) == Verdict::Linearizable
    }

    #[test]
    fn a_stale_read_is_wrong_and_a_concurrent_one_is_not() {
        let write = event(10, 20, Action::Write(1));
        assert!(is_fine(&[write, event(21, 22, Action::Read(1))]));
        assert!(!is_fine(&[write, event(21, 22, Action::Read(0))]));
        assert!(is_fine(&[write, event(19, 22, Action::Read(0))]));
        // Once seen, it stays.
        let (new, old) = (
            event(11, 12, Action::Read(1)),
            event(13, 14, Action::Read(0)),
        );
        assert!(!is_fine(&[write, new, old]));
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_not_twice() {
        let unknown = event(10, NEVER, Action::Write(1));
        let other = event(20, 30, Action::Write(2));
        assert!(is_fine(&[
            unknown,
            other,
            event(40, 41, Action::Read(2)),
            event(50, 51, Action::Read(1))
        ]));
        assert!(!is_fine(&[
            unknown,
            event(12, 13, Action::Read(1)),
            other,
            event(40, 41, Action::Read(1))
        ]));
        assert!(
            !is_fine(&[event(5, 6, Action::Read(1)), unknown]),
            "not before it was sent"
        );
    }

    #[test]
    fn two_winners_of_one_swap_are_wrong() {
        let first = event(1, 10, swap(0, 1, Some(true)));
        assert!(!is_fine(&[first, event(2, 9, swap(0, 2, Some(true)))]));
        assert!(is_fine(&[first, event(2, 9, swap(0, 2, Some(false)))]));
        assert!(!is_fine(&[event(2, 9, swap(0, 2, Some(false)))]));
        let maybe = event(2, NEVER, swap(0, 2, None));
        assert!(is_fine(&[
            maybe,
            event(20, 21, Action::Read(2)),
            event(30, 31, Action::Write(3))
        ]));
        assert!(!is_fine(&[
            first,
            event(11, 12, Action::Read(1)),
            maybe,
            event(20, 21, Action::Read(2))
        ]));
    }

    /// Tries every order, without any cleverness.
    fn by_force(events: &[Event], done: u32, value: u64) -> bool {
        let is_left = |index: usize| done >> index & 1 == 0;
        let left = (0..events.len()).filter(|&index| is_left(index));
        if left.clone().all(|index| events[index].end == NEVER) {
            return true;
        }
        let first_end = left.clone().map(|index| events[index].end).min().unwrap();
        left.filter(|&index| events[index].start <= first_end)
            .any(|index| {
                let after = events[index].action.apply(value);
                after.is_some_and(|after| by_force(events, done | 1 << index, after))
            })
    }

    #[test]
    fn the_search_agrees_with_brute_force_on_small_histories() {
        let mut random = Random::new(7);
        let mut fine = 0;
        for _ in 0..20_000 {
            let events: Vec<Event> = (0..2 + random.below(6))
                .map(|_| {
                    let start = random.below(30);
                    let is_unknown = random.below(5) == 0;
                    let end = if is_unknown {
                        NEVER
                    } else {
                        start + 1 + random.below(12)
                    };
                    let (a, b) = (random.below(3), 1 + random.below(3));
                    let known = (!is_unknown).then(|| random.below(2) == 0);
                    let action = match random.below(3) {
                        0 if !is_unknown => Action::Read(a),
                        1 => swap(a, b, known),
                        _ => Action::Write(b),
                    };
                    event(start, end, action)
                })
                .collect();
            let expected = by_force(&events, 0, 0);
            assert_eq!(is_fine(&events), expected, "{events:?}");
            fine += u64::from(expected);
        }
        assert!((4_000..16_000).contains(&fine), "both kinds: {fine}");
    }
}

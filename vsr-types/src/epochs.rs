//! Names for stretches of the log: which epoch an op belongs to, and which number it has there.
//!
//! There is one sequence of ops, 1, 2, 3, ..., and it never starts over. What the operator calls "the last
//! op number" cuts it into epochs of equal length, so that people, files and metrics see small numbers:
//!
//! ```text
//!   op         1   2   3  |  4   5   6  |  7  ...         op_max = 3
//!   name     0/1 0/2 0/3  | 1/1 1/2 1/3 | 2/1 ...
//!   state  0/0         '- 1/0        '- 2/0               what the next epoch begins with
//! ```
//!
//! Succession over names is succession over ops, so whatever holds of the log holds across a border
//! (R10.2). The same op has the same name on every replica, because `op_max` is part of what two nodes
//! compare before they talk.

use core::fmt;
use core::num::NonZeroU64;

use crate::{Epoch, Op, limits};

/// How many ops an epoch has (N22).
///
/// ```
/// use vsr_types::{Epoch, Op, OpMax};
/// let op_max = OpMax::new(3).expect("not zero");
/// assert_eq!(op_max.name(Op::new(4)).to_string(), "1/1");
/// assert_eq!(op_max.border(Epoch::new(1)), Op::new(6));
/// assert!(op_max.is_border(Op::new(6)) && !op_max.is_border(Op::ZERO));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpMax(NonZeroU64);

/// The name of an op: its epoch, and its number there. Ordered as the ops are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpName {
    /// The epoch; compared first.
    pub epoch: Epoch,
    /// From 1 in every epoch; 0: the state that the epoch begins with.
    pub number: u64,
}

impl fmt::Display for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.number)
    }
}

impl OpMax {
    /// Epochs of this many ops; none for zero.
    #[must_use]
    pub const fn new(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// The raw number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0.get()
    }

    /// The name of `op`: `((op - 1) / op_max, (op - 1) % op_max + 1)`, and 0/0 for the genesis.
    #[must_use]
    #[inline]
    pub const fn name(self, op: Op) -> OpName {
        // Asked for every message, and few logs ever leave their first epoch: no division there.
        if op.raw() <= self.raw() {
            return OpName {
                epoch: Epoch::ZERO,
                number: op.raw(),
            };
        }
        let before = op.raw() - 1;
        OpName {
            epoch: Epoch::new(before / self.raw()),
            number: before % self.raw() + 1,
        }
    }

    /// The epoch of `op`.
    #[must_use]
    #[inline]
    pub const fn epoch(self, op: Op) -> Epoch {
        self.name(op).epoch
    }

    /// The name of the state after `op`: behind the last op of an epoch that of the next one's beginning.
    #[must_use]
    pub const fn state_name(self, op: Op) -> OpName {
        if self.is_border(op) {
            return OpName {
                epoch: self.epoch(op).next(),
                number: 0,
            };
        }
        self.name(op)
    }

    /// The op of this name; none when no op has it.
    #[must_use]
    pub const fn op(self, name: OpName) -> Option<Op> {
        if name.number > self.raw() || (name.number == 0 && name.epoch.raw() > 0) {
            return None;
        }
        let Some(before) = name.epoch.raw().checked_mul(self.raw()) else {
            return None;
        };
        match before.checked_add(name.number) {
            Some(op) => Some(Op::new(op)),
            None => None,
        }
    }

    /// Whether `op` is the last of its epoch.
    #[must_use]
    #[inline]
    pub const fn is_border(self, op: Op) -> bool {
        op.raw() >= self.raw() && op.raw().is_multiple_of(self.raw())
    }

    /// The last op of `epoch`. The last epoch of all ends where all numbers do
    /// ([`limits::NUMBER_MAX`], R10.1).
    #[must_use]
    pub const fn border(self, epoch: Epoch) -> Op {
        let end = epoch.raw().saturating_add(1).saturating_mul(self.raw());
        if end < limits::NUMBER_MAX {
            Op::new(end)
        } else {
            Op::new(limits::NUMBER_MAX)
        }
    }

    /// How many ops the epoch of `op` has left behind it.
    #[must_use]
    pub const fn left(self, op: Op) -> u64 {
        self.border(self.epoch(op)).distance_from(op)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    /// Lengths and ops of every order of magnitude, and those around borders.
    fn cases() -> impl Iterator<Item = (OpMax, Op)> {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut draw = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        (0..20_000).map(move |round: u64| {
            let length = (draw() >> (2 + draw() % 62)).clamp(1, limits::NUMBER_MAX);
            let any = draw() >> (2 + draw() % 62);
            let border = (any / length * length).min(limits::NUMBER_MAX);
            let op = match round % 4 {
                0 => any,
                1 => border.saturating_sub(1),
                2 => border,
                _ => border + 1,
            };
            (OpMax::new(length).expect("not zero"), Op::new(op))
        })
    }

    /// R10.2: names are as good as ops. They go up by one, in the order of the ops, and lead back.
    #[test]
    fn names_follow_one_another_as_ops_do() {
        for (op_max, op) in cases() {
            let (name, next) = (op_max.name(op), op_max.name(op.next()));
            assert_eq!(op_max.op(name), Some(op), "{op_max:?} {op}");
            assert!(name < next, "{op_max:?} {op}");
            let state = op_max.state_name(op);
            if op_max.is_border(op) {
                let epoch = name.epoch.next();
                assert_eq!(name.number, op_max.raw());
                assert_eq!(next, OpName { epoch, number: 1 });
                assert_eq!(state, OpName { epoch, number: 0 });
                assert!(name < state && state < next);
            } else {
                let number = name.number + 1;
                assert_eq!(next, OpName { number, ..name }, "{op_max:?} {op}");
                assert_eq!(state, name);
            }
        }
    }

    #[test]
    fn what_is_left_ends_at_the_border() {
        for (op_max, op) in cases().filter(|(_, op)| op.raw() <= limits::NUMBER_MAX) {
            let border = op_max.border(op_max.epoch(op));
            assert_eq!(op.plus(op_max.left(op)), border, "{op_max:?} {op}");
            assert!(op_max.is_border(border) || border.raw() == limits::NUMBER_MAX);
            assert_eq!(op_max.epoch(border), op_max.epoch(op));
        }
    }

    #[test]
    fn numbers_that_no_op_has_are_no_names() {
        for (op_max, op) in cases() {
            let epoch = op_max.epoch(op).next();
            assert_eq!(op_max.op(OpName { epoch, number: 0 }), None);
            let number = op_max.raw() + 1;
            assert_eq!(op_max.op(OpName { epoch, number }), None);
        }
    }

    #[test]
    fn an_epoch_of_three() {
        let op_max = OpMax::new(3).expect("not zero");
        let names: Vec<_> = (0..8)
            .map(|op| std::format!("{}", op_max.name(Op::new(op))))
            .collect();
        let expected = ["0/0", "0/1", "0/2", "0/3", "1/1", "1/2", "1/3", "2/1"];
        assert_eq!(names, expected);
        assert_eq!(OpMax::new(0), None);
        // R10.1: nothing wraps.
        let last = op_max.border(Epoch::new(u64::MAX));
        assert_eq!(last, Op::new(limits::NUMBER_MAX));
    }
}

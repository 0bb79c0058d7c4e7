//! Real-time order: what was asked after an answer was given comes after it.
//!
//! One comparison per answer, over any number of operations. It believes the numbers in the answers;
//! [`super::registers`] does not.

use vsr_types::Op;

use super::{Checked, ensure};

/// A place in the order of all operations.
pub(crate) type Place = (Op, u32);

/// The newest place that any client was told of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    told: Place,
}

impl Order {
    /// What an operation or query that begins now must not miss.
    pub(crate) const fn floor(&self) -> Place {
        self.told
    }

    /// An operation that began at `floor` was executed at `place`.
    pub(crate) fn answered(&mut self, floor: Place, place: Place) -> Checked {
        ensure!(
            place > floor,
            "real-time order",
            "an operation was executed at {}.{}, but {}.{} was told before it was asked for",
            place.0,
            place.1,
            floor.0,
            floor.1
        );
        self.told = self.told.max(place);
        Ok(())
    }

    /// A query that began at `floor` was answered with the state after `op`.
    pub(crate) fn read(&mut self, floor: Place, op: Op) -> Checked {
        ensure!(
            op >= floor.0,
            "reads are linearizable (I21)",
            "a read shows op {op}, but {} was told before it was asked for",
            floor.0
        );
        self.told = self.told.max((op, u32::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_the_past_is_found() {
        let mut order = Order::default();
        let before = order.floor();
        order.answered(before, (Op::new(5), 1)).expect("the first");
        let floor = order.floor();
        order
            .answered(before, (Op::new(5), 0))
            .expect("began before that");
        order
            .answered(floor, (Op::new(5), 2))
            .expect("later in the batch");
        assert!(order.answered(floor, (Op::new(5), 1)).is_err());
        assert!(order.answered(floor, (Op::new(4), 9)).is_err());
        assert!(order.read(order.floor(), Op::new(4)).is_err());
        order.read(order.floor(), Op::new(5)).expect("all of op 5");
        assert!(order.answered(order.floor(), (Op::new(5), 7)).is_err());
    }
}

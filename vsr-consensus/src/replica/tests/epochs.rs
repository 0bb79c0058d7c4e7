//! Where all numbers end.

use vsr_types::limits::NUMBER_MAX;

use super::*;
use crate::{EpochWarning, HaltReason, OnOpMax};

impl World {
    /// As if everything up to `op` had been prepared, committed and executed.
    fn jump_to(&mut self, op: Op) {
        let replica = &mut self.replica;
        let mut header = Header::new(Prepare {
            op,
            ..bytemuck::Zeroable::zeroed()
        });
        header.set_cluster(CLUSTER);
        header.set_epoch(replica.op_max().epoch(op));
        header.seal(&[]);
        replica.journal.reset_with(&header);
        replica.head = header.identity();
        replica.applied_identity = header.identity();
        (replica.verified, replica.held) = (op, op);
        (replica.commit, replica.applied) = (op, op);
        replica.seal();
    }
}

/// R10.1.
#[test]
fn at_the_end_of_all_numbers_every_mode_halts() {
    for mode in OnOpMax::ALL {
        let mut world = World::new(0, 1, |settings| {
            settings.op_max = 1_000;
            settings.on_op_max = mode;
        });
        let register = world.request(0, b"");
        world.hand_over(&register);
        world.settle();
        world.jump_to(Op::new(NUMBER_MAX - 1));
        assert_eq!(world.replica.report().halted, None);
        let request = world.request(1, b"the last one");
        world.hand_over(&request);
        world.settle();
        let report = world.replica.report();
        assert_eq!(
            report.applied,
            Op::new(NUMBER_MAX),
            "the last number is used"
        );
        assert_eq!(report.halted, Some(HaltReason::OpMax));
        assert_eq!((report.ops_left, report.warning), (0, EpochWarning::Full));
        let request = world.request(2, b"one more");
        assert_eq!(world.hand_over(&request), Some(DropReason::Refused));
        assert_eq!(world.rejects(), 1);
        world.settle();
        assert_eq!(world.replica.report().op, Op::new(NUMBER_MAX), "{mode:?}");
    }
}

//! What must hold where epochs end (N22): every entry says which epoch it is of, nothing is prepared
//! beyond a border that stops the log, and all archives of an epoch are of the same state.

use std::collections::BTreeMap;

use vsr_types::{Digest, Epoch, Header, Op, OpMax};

use super::{Checked, ensure};
use crate::OnOpMax;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Epochs {
    op_max: OpMax,
    mode: OnOpMax,
    /// What each epoch's first archive holds, and how often it was archived.
    archives: BTreeMap<Epoch, (Digest, u64)>,
}

impl Epochs {
    pub(crate) const fn new(op_max: OpMax, mode: OnOpMax) -> Self {
        Self {
            op_max,
            mode,
            archives: BTreeMap::new(),
        }
    }

    /// How many epochs have begun behind the first, when everything up to `op` is committed.
    pub(crate) fn rollovers(&self, op: Op) -> u64 {
        self.op_max.epoch(op).raw()
    }

    /// How many archives there are, and how many of them a second primary made again.
    pub(crate) fn archived(&self) -> (u64, u64) {
        let all: u64 = self.archives.values().map(|(_, times)| times).sum();
        (all, all - self.archives.len() as u64)
    }

    /// R10.1, R10.2, R10.4: a primary prepared `header` as `op`.
    pub(crate) fn prepared(&self, header: &Header, op: Op) -> Checked {
        let epoch = self.op_max.epoch(op);
        ensure!(
            header.epoch() == epoch,
            "an entry has the epoch of its op (R10.2)",
            "op {op} was prepared in epoch {} and not {epoch}",
            header.epoch()
        );
        let Some(before) = epoch.raw().checked_sub(1).map(Epoch::new) else {
            return Ok(());
        };
        ensure!(
            self.mode != OnOpMax::Halt,
            "the last op is the last (R10.1)",
            "op {op} was prepared, but {} is the last",
            self.op_max.raw()
        );
        ensure!(
            self.mode != OnOpMax::Archive || self.archives.contains_key(&before),
            "an epoch is archived before the next one begins (R10.4)",
            "op {op} was prepared in epoch {epoch}, and nobody has archived epoch {before}"
        );
        Ok(())
    }

    /// R10.4: R`replica`, whose last executed op is `applied`, archives the state of `epoch`.
    pub(crate) fn archive(
        &mut self,
        replica: usize,
        epoch: Epoch,
        applied: Op,
        digest: Option<Digest>,
    ) -> Checked {
        let border = self.op_max.border(epoch);
        ensure!(
            applied == border,
            "an archive is the state that an epoch ended with (R10.4)",
            "R{replica} archives epoch {epoch}, which ends with op {border}, at op {applied}"
        );
        let Some(digest) = digest else {
            ensure!(
                false,
                "an archive is of a state (R10.4)",
                "R{replica} has none at op {applied}"
            );
            return Ok(());
        };
        let (first, times) = self.archives.entry(epoch).or_insert((digest, 0));
        *times += 1;
        ensure!(
            *first == digest,
            "all archives of an epoch are equal (R10.3)",
            "R{replica} archives epoch {epoch} with digest {digest}, another did with {first}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr_types::message::Prepare;

    fn epochs(mode: OnOpMax) -> Epochs {
        Epochs::new(OpMax::new(3).expect("not zero"), mode)
    }

    fn prepare(epoch: u64) -> Header {
        let mut header = Header::new(Prepare {
            ..bytemuck::Zeroable::zeroed()
        });
        header.set_epoch(Epoch::new(epoch));
        header
    }

    fn rule(checked: Checked) -> &'static str {
        checked.expect_err("a violation").rule
    }

    #[test]
    fn a_wrong_epoch_is_found() {
        let epochs = epochs(OnOpMax::Reset);
        assert_eq!(epochs.prepared(&prepare(0), Op::new(3)), Ok(()));
        assert_eq!(epochs.prepared(&prepare(1), Op::new(4)), Ok(()));
        let wrong = epochs.prepared(&prepare(0), Op::new(4));
        assert_eq!(rule(wrong), "an entry has the epoch of its op (R10.2)");
    }

    #[test]
    fn a_log_that_does_not_halt_is_found() {
        let epochs = epochs(OnOpMax::Halt);
        assert_eq!(epochs.prepared(&prepare(0), Op::new(3)), Ok(()));
        let beyond = epochs.prepared(&prepare(1), Op::new(4));
        assert_eq!(rule(beyond), "the last op is the last (R10.1)");
    }

    #[test]
    fn an_epoch_that_nobody_archived_is_found() {
        let mut epochs = epochs(OnOpMax::Archive);
        let digest = Digest::new(7);
        let early = epochs.prepared(&prepare(1), Op::new(4));
        assert_eq!(
            rule(early),
            "an epoch is archived before the next one begins (R10.4)"
        );
        let early = epochs.archive(0, Epoch::ZERO, Op::new(2), Some(digest));
        assert_eq!(
            rule(early),
            "an archive is the state that an epoch ended with (R10.4)"
        );
        let made = epochs.archive(0, Epoch::ZERO, Op::new(3), Some(digest));
        assert_eq!(made, Ok(()));
        assert_eq!(epochs.prepared(&prepare(1), Op::new(4)), Ok(()));
        let again = epochs.archive(1, Epoch::ZERO, Op::new(3), Some(digest));
        assert_eq!((again, epochs.archived()), (Ok(()), (2, 1)));
        let other = epochs.archive(2, Epoch::ZERO, Op::new(3), Some(Digest::new(8)));
        assert_eq!(rule(other), "all archives of an epoch are equal (R10.3)");
        let none = epochs.archive(2, Epoch::ZERO, Op::new(3), None);
        assert_eq!(rule(none), "an archive is of a state (R10.4)");
    }
}

//! What the journal remembers beyond its head: what may have been promised must not be denied.

use vsr_types::{Identity, Op};

use crate::Journal;

impl Journal {
    /// Whether the entry `identity` of `op` may have been held here before, although the log ends
    /// before `op` now: its slot still shows it, or is damaged beyond telling. Who asks wants to say
    /// "I never had it" and must not if this is true (R5.5, trace T20b).
    #[must_use]
    pub fn may_have_held(&self, op: Op, identity: &Identity) -> bool {
        if op <= self.head() {
            return self
                .header(op)
                .is_none_or(|held| held.identity() == *identity);
        }
        match self.slot(op) {
            Some(slot) => slot.header.identity() == *identity,
            None => self.is_lost(op),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use vsr_types::{Header, View, message::Prepare};

    use super::*;

    fn entry(op: u64, view: u64) -> Header {
        let mut header = Header::new(Prepare {
            op: Op::new(op),
            ..Prepare::zeroed()
        });
        header.set_view(View::new(view));
        header.seal(b"body");
        header
    }

    #[test]
    fn an_entry_behind_which_the_head_was_moved_back_is_remembered() {
        let mut journal = Journal::new(8, 4096);
        journal.append(&entry(1, 0), b"body", Op::new(1));
        journal.append(&entry(2, 0), b"body", Op::new(1));
        journal.truncate(Op::new(1), Op::ZERO);
        assert!(journal.may_have_held(Op::new(2), &entry(2, 0).identity()));
        assert!(!journal.may_have_held(Op::new(2), &entry(2, 1).identity()));
        assert!(
            !journal.may_have_held(Op::new(3), &entry(3, 0).identity()),
            "a slot that was never used denies with right"
        );
        assert!(journal.may_have_held(Op::new(1), &entry(1, 0).identity()));
    }
}

//! What no run of the protocol may do, whatever happens: checked against what was ever committed.

use std::format;
use std::string::String;
use std::vec::Vec;

use vsr_types::Identity;

use crate::replica::fingerprint::Fingerprint;
use crate::sessions::mix;

/// An entry of the log, as one number.
pub(super) type Entry = u64;

pub(super) fn entry(identity: &Identity) -> Entry {
    let sums = u64::from(identity.checksum.raw()) << 32 | u64::from(identity.checksum_body.raw());
    mix(sums ^ mix(identity.view.raw()))
}

/// Something that a step of a replica made true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// A primary counted a quorum for the entry, or somebody executed it.
    Committed { op: u64, entry: Entry, view: u64 },
    /// A replica leads the view, with this log.
    Started {
        view: u64,
        life: u64,
        log: Vec<Entry>,
    },
}

/// What is known to have happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Judge {
    /// Op, entry, and the lowest view in which it was committed.
    committed: Vec<(u64, Entry, u64)>,
    /// View, the life that leads it, and the log it began with.
    started: Vec<(u64, u64, Vec<Entry>)>,
}

impl Judge {
    /// What must hold of view 0 from the start.
    pub(super) fn new(life: u64) -> Self {
        Self {
            committed: Vec::new(),
            started: std::vec![(0, life, Vec::new())],
        }
    }

    pub(super) const fn committed(&self) -> usize {
        self.committed.len()
    }

    pub(super) const fn started(&self) -> usize {
        self.started.len()
    }

    /// Takes a fact in.
    ///
    /// # Errors
    /// In words, what it contradicts.
    pub(super) fn hear(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            &Fact::Committed { op, entry, view } => self.hear_committed(op, entry, view),
            Fact::Started { view, life, log } => self.hear_started(*view, *life, log),
        }
    }

    fn hear_committed(&mut self, op: u64, entry: Entry, view: u64) -> Result<(), String> {
        if let Some(known) = self.committed.iter_mut().find(|known| known.0 == op) {
            if known.1 != entry {
                return Err(format!(
                    "op {op} is committed twice, as two different entries"
                ));
            }
            known.2 = known.2.min(view);
        } else {
            self.committed.push((op, entry, view));
            self.committed.sort_unstable();
        }
        for (later, _, log) in self.started.iter().filter(|started| started.0 > view) {
            if log.get(op as usize - 1) != Some(&entry) {
                return Err(format!(
                    "op {op} is committed in view {view}, but view {later} has started without it"
                ));
            }
        }
        Ok(())
    }

    fn hear_started(&mut self, view: u64, life: u64, log: &[Entry]) -> Result<(), String> {
        if let Some(known) = self.started.iter().find(|known| known.0 == view) {
            if known.1 != life {
                return Err(format!("view {view} is led by two lives (I12)"));
            }
            return Ok(());
        }
        for &(op, entry, _) in self.committed.iter().filter(|known| known.2 < view) {
            if log.get(op as usize - 1) != Some(&entry) {
                return Err(format!(
                    "view {view} starts without op {op}, which is committed (I11)"
                ));
            }
        }
        self.started.push((view, life, log.to_vec()));
        self.started.sort_unstable();
        Ok(())
    }

    pub(super) fn fingerprint(&self) -> u128 {
        let mut into = Fingerprint::new();
        for &(op, entry, view) in &self.committed {
            into.word(op);
            into.word(entry);
            into.word(view);
        }
        for (view, life, log) in &self.started {
            into.word(*view);
            into.word(*life);
            into.word(log.len() as u64);
            log.iter().for_each(|&entry| into.word(entry));
        }
        into.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Fact, Judge};

    fn committed(op: u64, entry: u64, view: u64) -> Fact {
        Fact::Committed { op, entry, view }
    }

    fn started(view: u64, life: u64, log: &[u64]) -> Fact {
        Fact::Started {
            view,
            life,
            log: log.to_vec(),
        }
    }

    #[test]
    fn a_committed_op_stays_what_it_is() {
        let mut judge = Judge::new(1);
        judge.hear(&committed(1, 7, 0)).expect("the first word");
        judge.hear(&committed(1, 7, 2)).expect("said again");
        judge.hear(&committed(1, 8, 2)).expect_err("another entry");
    }

    #[test]
    fn a_later_view_begins_with_what_was_committed_before_and_after() {
        let mut judge = Judge::new(1);
        judge.hear(&committed(1, 7, 0)).expect("the first word");
        judge.clone().hear(&started(1, 2, &[])).expect_err("lost");
        judge.hear(&started(1, 2, &[7])).expect("kept");
        judge
            .hear(&committed(2, 9, 0))
            .expect_err("view 1 has begun without it");
    }

    #[test]
    fn a_view_has_one_leader() {
        let mut judge = Judge::new(1);
        judge.hear(&started(1, 2, &[])).expect("the first");
        judge.hear(&started(1, 2, &[])).expect("the same");
        judge.hear(&started(1, 3, &[])).expect_err("another life");
    }
}

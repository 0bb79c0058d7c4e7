//! The one history that everybody must agree on.
//!
//! An entry becomes known here when its primary appends it, and part of the history when a primary
//! first knows it to be committed. At that moment a machine of the checkers' own executes it; what
//! every replica does from then on is compared with that.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use vsr_types::message::Prepare;
use vsr_types::{
    Batch, ClientId, Digest, Epoch, Header, Identity, Op, OpMax, SessionNumber, ViewStamp,
};

use super::epochs::Epochs;
use super::sessions::Sessions;
use super::{Checked, ensure};
use crate::sim::machine::{Model, Note, Simulated};
use crate::{Context, OnOpMax};

/// An entry that a primary appended.
#[derive(Clone, Copy, Debug)]
struct Proposal {
    identity: Identity,
    header: Header,
    parent: Identity,
    body: (usize, usize),
}

/// What is known of an op.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// One for each view in which it was first prepared; rarely more than one.
    proposals: Vec<Proposal>,
    committed: Option<Identity>,
    /// The view of the primary that committed it first.
    commit_view: u64,
    /// Where its executions end.
    executed_to: usize,
    digest: Option<Digest>,
}

/// One operation of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Execution {
    pub(crate) op: Op,
    pub(crate) index: u32,
    pub(crate) client: ClientId,
    pub(crate) request: u64,
    operation: u32,
    pub(crate) reply: u32,
    digest: Digest,
}

/// A view that began with a log.
#[derive(Clone, Debug)]
struct Started {
    replica: usize,
    life: u32,
    /// The first op of `suffix`.
    from: Op,
    suffix: Vec<Identity>,
}

/// What a replica's log shows: the identity of an entry that is held.
pub(crate) trait Log {
    /// The identity of `op`, if the entry is held.
    fn identity(&self, op: Op) -> Option<Identity>;
    /// The header and the body of `op`, if both are held and intact.
    fn entry(&self, op: Op) -> Option<(Header, &[u8])>;
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct History<M> {
    /// By op; the first is that of op 1.
    entries: Vec<Entry>,
    bodies: Vec<u8>,
    executions: Vec<Execution>,
    /// The digest of a machine that has executed nothing.
    empty: Digest,
    /// The last op that is known to be committed anywhere.
    committed: Op,
    started: BTreeMap<u64, Started>,
    sessions: Sessions,
    epochs: Option<Epochs>,
    model: Model<M>,
}

/// The place of `op` in `entries`.
const fn place(op: Op) -> usize {
    (op.raw() - 1) as usize
}

impl<M: Simulated> History<M> {
    pub(crate) fn new(sessions: usize) -> Self {
        Self {
            entries: Vec::new(),
            bodies: Vec::new(),
            executions: Vec::new(),
            empty: M::new().digest(),
            committed: Op::ZERO,
            started: BTreeMap::new(),
            sessions: Sessions::new(sessions),
            epochs: None,
            model: Model::new(),
        }
    }

    /// With epochs of so many ops, and what happens when one ends.
    pub(crate) fn with_epochs(mut self, op_max: OpMax, mode: OnOpMax) -> Self {
        self.epochs = Some(Epochs::new(op_max, mode));
        self
    }

    /// How many epochs have begun behind another.
    pub(crate) fn rollovers(&self) -> u64 {
        let epochs = self.epochs.as_ref();
        epochs.map_or(0, |epochs| epochs.rollovers(self.committed))
    }

    /// How many archives were made, and how many of them again.
    pub(crate) fn archived(&self) -> (u64, u64) {
        self.epochs.as_ref().map_or((0, 0), Epochs::archived)
    }

    /// A node archives what an epoch ended with.
    pub(crate) fn archive(
        &mut self,
        replica: usize,
        epoch: Epoch,
        applied: Op,
        digest: Option<Digest>,
    ) -> Checked {
        match &mut self.epochs {
            Some(epochs) => epochs.archive(replica, epoch, applied, digest),
            None => Ok(()),
        }
    }

    /// Whether any primary has prepared an entry as `op`.
    pub(crate) fn is_proposed(&self, op: Op) -> bool {
        self.entries
            .get(place(op))
            .is_some_and(|entry| !entry.proposals.is_empty())
    }

    pub(crate) const fn committed(&self) -> Op {
        self.committed
    }

    pub(crate) fn executed(&self) -> usize {
        self.executions.len()
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.sessions.evictions
    }

    /// Whether the agreed order leaves `client` this session.
    pub(crate) fn has_session(&self, client: ClientId, number: SessionNumber) -> bool {
        self.sessions.has(client, number)
    }

    /// Whether this view has begun.
    pub(crate) fn has_started(&self, view: u64) -> bool {
        self.started.contains_key(&view)
    }

    /// How many views have begun.
    pub(crate) fn views(&self) -> usize {
        self.started.len()
    }

    /// A primary appended an entry.
    pub(crate) fn propose(&mut self, header: &Header, body: &[u8]) -> Checked {
        let Some(prepare) = header.fields::<Prepare>() else {
            return Ok(());
        };
        if let Some(epochs) = &self.epochs {
            epochs.prepared(header, prepare.op)?;
        }
        let at = place(prepare.op);
        if self.entries.len() <= at {
            self.entries.resize(at + 1, Entry::default());
        }
        let entry = &mut self.entries[at];
        let identity = header.identity();
        let same_view = entry
            .proposals
            .iter()
            .find(|p| p.identity.view == identity.view);
        if let Some(known) = same_view {
            ensure!(
                known.identity == identity,
                "one entry per view and op (I9)",
                "op {} of view {} was prepared twice",
                prepare.op,
                identity.view
            );
            return Ok(());
        }
        let from = self.bodies.len();
        self.bodies.extend_from_slice(body);
        entry.proposals.push(Proposal {
            identity,
            header: *header,
            parent: prepare.parent,
            body: (from, from + body.len()),
        });
        Ok(())
    }

    /// A primary of `view` knows that everything up to `to` is committed; `log` is its log.
    pub(crate) fn commit(&mut self, log: &impl Log, view: u64, to: Op) -> Checked {
        while self.committed < to {
            let op = self.committed.next();
            let Some(identity) = log.identity(op) else {
                ensure!(
                    false,
                    "a primary holds what it commits (I7)",
                    "op {op} is committed in view {view} by a primary that does not hold it"
                );
                return Ok(());
            };
            self.canonize(op, identity, view)?;
        }
        Ok(())
    }

    fn canonize(&mut self, op: Op, identity: Identity, view: u64) -> Checked {
        let known = self.entries.get(place(op));
        let proposal = known.and_then(|e| e.proposals.iter().find(|p| p.identity == identity));
        let Some(proposal) = proposal.copied() else {
            ensure!(
                false,
                "nothing out of thin air",
                "op {op} was committed in view {view} as an entry that no primary proposed"
            );
            return Ok(());
        };
        if let Some(before) = op.previous().filter(|before| *before > Op::ZERO) {
            ensure!(
                self.entries[place(before)].committed == Some(proposal.parent),
                "the hash chain holds (I4)",
                "op {op} was committed with another parent than the committed op {before}"
            );
        }
        // Every view that has begun since must have the entry (I11, L5).
        for (later, started) in self.started.range(view + 1..) {
            let there = op.raw().checked_sub(started.from.raw());
            let there = there.and_then(|i| started.suffix.get(i as usize));
            ensure!(
                op < started.from || there == Some(&identity),
                "a committed entry is in every later view (I11)",
                "op {op}, committed in view {view}, is missing in view {later}, which R{} started",
                started.replica
            );
        }
        self.execute(op, &proposal)?;
        let entry = &mut self.entries[place(op)];
        entry.committed = Some(identity);
        entry.commit_view = view;
        entry.executed_to = self.executions.len();
        self.committed = op;
        Ok(())
    }

    /// The model executes a committed entry.
    fn execute(&mut self, op: Op, proposal: &Proposal) -> Checked {
        let prepare = proposal.header.fields::<Prepare>();
        let timestamp = prepare.map_or_else(Default::default, |prepare| prepare.timestamp);
        let Ok(batch) = Batch::parse(&self.bodies[proposal.body.0..proposal.body.1]) else {
            ensure!(false, "entries are batches", "op {op} is no batch");
            return Ok(());
        };
        for (index, request) in batch.requests().enumerate() {
            if !self.sessions.take(op, &request)? {
                continue;
            }
            let at = Context {
                stamp: ViewStamp {
                    epoch: proposal.header.epoch(),
                    view: proposal.header.view(),
                    op,
                },
                index: index as u32,
                timestamp,
                client: request.header().client,
            };
            let (reply, digest) = self.model.apply(&at, request.operation());
            self.executions.push(Execution {
                op,
                index: at.index,
                client: at.client,
                request: request.header().request.raw(),
                operation: vsr_types::checksum(request.operation()).raw(),
                reply,
                digest,
            });
        }
        Ok(())
    }

    /// A replica executed everything from `from` (exclusive) to `to`, if its log still shows it.
    pub(crate) fn applied(&self, replica: usize, log: &impl Log, from: Op, to: Op) -> Checked {
        ensure!(
            to <= self.committed,
            "nothing is executed before it is committed (I3)",
            "R{replica} executed op {to}, but {} is the last that anybody committed",
            self.committed
        );
        let mut op = from;
        while op < to {
            op = op.next();
            let identity = log.identity(op);
            ensure!(
                identity.is_none() || identity == self.entries[place(op)].committed,
                "one committed entry per op (I8)",
                "R{replica} executed another entry as op {op} than was committed"
            );
        }
        Ok(())
    }

    /// What was done to a replica's machine, compared with the history. `cursor` is how much of it
    /// this machine has executed.
    pub(crate) fn notes(&self, replica: usize, cursor: &mut usize, notes: &[Note]) -> Checked {
        for note in notes {
            match *note {
                Note::Applied { op, index, .. } => {
                    let expected = self.executions.get(*cursor);
                    ensure!(
                        expected.is_some_and(|expected| is_same(expected, note)),
                        "replicas execute the same (I19, I20)",
                        "R{replica} executed {op}.{index} and got {note:?}; the history has \
                         {expected:?} there"
                    );
                    *cursor += 1;
                }
                Note::Installed { op, digest } => {
                    ensure!(
                        op <= self.committed,
                        "only committed states are transferred (I26)",
                        "R{replica} installed a state of op {op}"
                    );
                    *cursor = self.executed_to(op);
                    let expected = self.machine_digest(op);
                    ensure!(
                        digest == expected,
                        "a transferred state is the state (I19)",
                        "R{replica} installed a state of op {op} with digest {digest}, not {expected}"
                    );
                }
            }
        }
        Ok(())
    }

    fn executed_to(&self, op: Op) -> usize {
        if op == Op::ZERO {
            return 0;
        }
        self.entries[place(op)].executed_to
    }

    /// The digest of the machine alone after `op`.
    fn machine_digest(&self, op: Op) -> Digest {
        match self.executed_to(op) {
            0 => self.empty,
            to => self.executions[to - 1].digest,
        }
    }

    /// A replica whose machine has executed `cursor` operations says it has executed everything up to
    /// `op` and has this digest of machine and sessions.
    pub(crate) fn state(
        &mut self,
        replica: usize,
        cursor: usize,
        op: Op,
        digest: Option<Digest>,
    ) -> Checked {
        if op == Op::ZERO {
            return Ok(());
        }
        let expected = self.executed_to(op);
        ensure!(
            cursor == expected,
            "replicas execute the same (I19, I20)",
            "R{replica} is at op {op} after {cursor} operations, which should be {expected}"
        );
        let Some(digest) = digest else {
            return Ok(());
        };
        let known = self.entries[place(op)].digest.get_or_insert(digest);
        ensure!(
            *known == digest,
            "states are equal at equal ops (I19)",
            "R{replica} has the digest {digest} at op {op}, another replica had {known}"
        );
        Ok(())
    }

    /// A replica became the serving primary of `view` with a log whose last op is `head`, of which it
    /// has executed everything up to `applied`.
    pub(crate) fn start(
        &mut self,
        who: (usize, u32),
        log: &impl Log,
        view: u64,
        applied: Op,
        head: Op,
    ) -> Checked {
        let (replica, life) = who;
        if let Some(started) = self.started.get(&view) {
            ensure!(
                (started.replica, started.life) == who,
                "one primary incarnation per view (I12)",
                "view {view} is led by R{replica} (life {life}) and by R{} (life {})",
                started.replica,
                started.life
            );
            return Ok(());
        }
        // A view that begins late owes nothing to later ones (R5.9): only older views' commits count.
        let mut op = applied;
        while op < self.committed {
            op = op.next();
            let entry = &self.entries[place(op)];
            ensure!(
                entry.commit_view >= view || log.identity(op) == entry.committed,
                "a committed entry is in every later view (I11)",
                "view {view}, started by R{replica}, lacks op {op}, committed in view {}",
                entry.commit_view
            );
        }
        let from = self.committed.next();
        let mut suffix = vec![];
        let mut op = from;
        while op <= head {
            let Some(identity) = log.identity(op) else {
                break;
            };
            suffix.push(identity);
            op = op.next();
        }
        self.started.insert(
            view,
            Started {
                replica,
                life,
                from,
                suffix,
            },
        );
        Ok(())
    }

    /// The execution at `op`, `index`: what a reply must be about.
    pub(crate) fn execution(&self, op: Op, index: u32) -> Option<&Execution> {
        let to = self.entries.get(place(op))?.executed_to;
        let from = self.executed_to(op.previous()?);
        self.executions
            .get(from..to)?
            .iter()
            .find(|e| e.index == index)
    }
}

fn is_same(expected: &Execution, note: &Note) -> bool {
    let Note::Applied {
        op,
        index,
        client,
        operation,
        reply,
        digest,
        ..
    } = *note
    else {
        return false;
    };
    (expected.op, expected.index, expected.client) == (op, index, client)
        && (expected.operation, expected.reply) == (operation, reply)
        && expected.digest == digest
}

#[cfg(test)]
mod tests;

//! Histories that are as they should be, and histories that each break one rule.

use super::*;
use crate::sim::Store;
use crate::sim::machine::Watched;
use crate::{Boot, Config, Settings, StateMachine};
use bytemuck::Zeroable;
use vsr_types::{BatchBuilder, Epoch, Operation, Request, RequestHeader};
use vsr_types::{RequestNumber, Timestamp, View};

/// A log as a list of entries, the first being op 1.
#[derive(Clone, Debug, Default)]
struct Entries(Vec<(Header, Vec<u8>)>);

impl Log for Entries {
    fn identity(&self, op: Op) -> Option<Identity> {
        self.entry(op).map(|(header, _)| header.identity())
    }

    fn entry(&self, op: Op) -> Option<(Header, &[u8])> {
        let (header, body) = self.0.get(place(op))?;
        Some((*header, body))
    }
}

/// One request: a register when `number` is zero.
fn request(number: u64) -> Vec<u8> {
    let kind = if number == 0 {
        Operation::Register
    } else {
        Operation::Apply
    };
    let session = if number == 0 { 0 } else { 1 };
    let mut operation = vec![0; if number == 0 { 0 } else { 32 }];
    if number > 0 {
        // A swap of register 3.
        operation[0] = 1;
        operation[8] = 3;
        operation[16..24].copy_from_slice(&number.to_le_bytes());
    }
    let mut header = RequestHeader::new(
        kind,
        ClientId::new(9),
        Epoch::ZERO,
        SessionNumber::new(session),
        RequestNumber::new(number),
    );
    header.seal(&operation);
    [bytemuck::bytes_of(&header), &operation].concat()
}

impl Entries {
    /// Appends an entry of `view` with these requests.
    fn prepare(&mut self, view: u64, numbers: &[u64]) {
        let mut body = vec![0; 4096];
        let mut builder = BatchBuilder::new();
        for &number in numbers {
            let bytes = request(number);
            builder.push(&mut body, &Request::first_in(&bytes).expect("a request"));
        }
        let size = builder.finish(&mut body);
        body.truncate(size);
        let parent = self.0.last().map(|(header, _)| header.identity());
        let op = self.0.len() as u64 + 1;
        let mut header = Header::new(Prepare {
            op: Op::new(op),
            timestamp: Timestamp::from_nanos(op),
            parent: parent.unwrap_or_default(),
            ..Prepare::zeroed()
        });
        header.set_view(View::new(view));
        header.seal(&body);
        self.0.push((header, body));
    }

    fn proposed_to(&self, history: &mut History<Store>) {
        for (header, body) in &self.0 {
            history.propose(header, body).expect("new entries");
        }
    }
}

/// Three entries of view 0: a register and two operations, and a history that knows them.
fn proposed() -> (Entries, History<Store>) {
    let mut log = Entries::default();
    log.prepare(0, &[0]);
    log.prepare(0, &[1]);
    log.prepare(0, &[2]);
    let mut history = History::new(4);
    log.proposed_to(&mut history);
    (log, history)
}

fn rule(checked: Checked) -> &'static str {
    checked.expect_err("a bad history").rule
}

const fn op(number: u64) -> Op {
    Op::new(number)
}

#[test]
fn what_is_committed_in_order_is_a_history() {
    let (log, mut history) = proposed();
    history
        .start((0, 0), &log, 0, Op::ZERO, Op::ZERO)
        .expect("view 0");
    history.commit(&log, 0, op(3)).expect("in order");
    assert_eq!((history.committed(), history.executed()), (op(3), 2));
    history.applied(1, &log, Op::ZERO, op(3)).expect("the same");
    let executed = history.execution(op(3), 0).expect("the second operation");
    assert_eq!(executed.request, 2);
    assert!(
        history.execution(op(1), 0).is_none(),
        "a register is no operation"
    );
}

#[test]
fn an_entry_nobody_proposed_and_a_broken_chain_are_found() {
    let (mut log, mut history) = proposed();
    history.commit(&log, 0, op(1)).expect("the first");
    let mut foreign = log.clone();
    foreign.0.truncate(1);
    foreign.prepare(7, &[5]);
    assert_eq!(
        rule(history.commit(&foreign, 7, op(2))),
        "nothing out of thin air"
    );
    // Another op 1 in another view, whose successor is then committed.
    let mut other = Entries::default();
    other.prepare(1, &[0]);
    other.prepare(1, &[1]);
    other.proposed_to(&mut history);
    log.0[1] = other.0[1].clone();
    assert_eq!(
        rule(history.commit(&log, 1, op(2))),
        "the hash chain holds (I4)"
    );
}

#[test]
fn two_entries_under_one_number_are_found() {
    let (log, mut history) = proposed();
    history.commit(&log, 0, op(2)).expect("in order");
    let mut other = log.clone();
    other.0.truncate(1);
    other.prepare(4, &[2]);
    assert_eq!(
        rule(history.applied(2, &other, op(1), op(2))),
        "one committed entry per op (I8)"
    );
    assert_eq!(
        rule(history.applied(2, &log, op(2), op(3))),
        "nothing is executed before it is committed (I3)"
    );
    let mut again = Entries::default();
    again.prepare(0, &[7]);
    let (header, body) = &again.0[0];
    assert_eq!(
        rule(history.propose(header, body)),
        "one entry per view and op (I9)"
    );
}

#[test]
fn a_view_that_begins_without_a_committed_entry_is_found() {
    let (log, mut history) = proposed();
    history.commit(&log, 0, op(2)).expect("in order");
    let mut short = log.clone();
    short.0.truncate(1);
    assert_eq!(
        rule(history.start((1, 0), &short, 1, Op::ZERO, op(1))),
        "a committed entry is in every later view (I11)"
    );
    // And one that turns out later: committed in view 0 after view 1 has begun without it.
    let mut two = log.clone();
    two.0.truncate(2);
    history
        .start((1, 0), &two, 1, op(2), op(2))
        .expect("it has what is committed");
    history
        .start((0, 5), &two, 1, op(2), op(2))
        .expect_err("two primaries of one view");
    assert_eq!(
        rule(history.commit(&log, 0, op(3))),
        "a committed entry is in every later view (I11)"
    );
}

#[test]
fn an_operation_executed_twice_or_left_out_is_found() {
    let (log, mut history) = proposed();
    history.commit(&log, 0, op(3)).expect("in order");
    let mut machine: Watched<Store> = Watched::new(None);
    let mut reply = vec![0; 4096];
    let at = |op| Context {
        stamp: ViewStamp {
            op,
            ..ViewStamp::default()
        },
        timestamp: Timestamp::from_nanos(op.raw()),
        client: ClientId::new(9),
        ..Context::default()
    };
    let mut notes = Vec::new();
    let (first, second) = (request(1), request(2));
    machine.apply(&at(op(2)), &first[56..], &mut reply);
    machine.drain(&mut notes);
    let mut cursor = 0;
    history
        .notes(1, &mut cursor, &notes)
        .expect("the first operation");
    history
        .state(1, cursor, op(2), None)
        .expect("one operation at op 2");
    assert_eq!(
        rule(history.state(1, cursor, op(3), None)),
        "replicas execute the same (I19, I20)"
    );
    machine.apply(&at(op(2)), &first[56..], &mut reply);
    machine.drain(&mut notes);
    assert_eq!(
        rule(history.notes(1, &mut cursor, &notes)),
        "replicas execute the same (I19, I20)"
    );
    // The right operation on a state that is wrong already.
    machine.apply(&at(op(3)), &second[56..], &mut reply);
    machine.drain(&mut notes);
    assert!(history.notes(1, &mut cursor, &notes).is_err());
}

#[test]
fn different_states_at_one_op_are_found() {
    let (log, mut history) = proposed();
    history.commit(&log, 0, op(1)).expect("in order");
    let digest = |raw| Some(Digest::new(raw));
    history
        .state(0, 0, op(1), digest(5))
        .expect("the first to say");
    history.state(1, 0, op(1), digest(5)).expect("the same");
    assert_eq!(
        rule(history.state(2, 0, op(1), digest(6))),
        "states are equal at equal ops (I19)"
    );
    let installed = Note::Installed {
        op: op(1),
        digest: Digest::new(77),
    };
    let mut cursor = 0;
    assert_eq!(
        rule(history.notes(2, &mut cursor, &[installed])),
        "a transferred state is the state (I19)"
    );
}

#[test]
fn a_replica_shows_its_log() {
    let settings = Settings {
        journal_slots: 16,
        pipeline: 4,
        ..Settings::new(vsr_types::ReplicaIndex::new(0), 1)
    };
    let config: Config = settings.validate().expect("small settings");
    let boot = Boot {
        member: vsr_types::MemberId::new(1),
        nonce: vsr_types::Nonce::new(2),
        seed: 3,
    };
    let replica: crate::Replica<Watched<Store>> =
        crate::Replica::new(&config, boot, Watched::new(None));
    assert_eq!(replica.identity(op(1)), None, "nothing yet");
}

//! Bytes from peers and clients: whatever they are, they do not panic us, and all replicas do the same.

use super::support::{Fixture, Random, assert_identical, pack};
use crate::kv::{Opcode, OperationBuilder, ReplyReader};
use vsr_consensus::StateMachine as _;

fn sample() -> Vec<u8> {
    let mut builder = OperationBuilder::new(vec![0; 1024]);
    builder
        .push(Opcode::Set, &[b"key", b"value", b"ex", b"10"])
        .expect("fits");
    builder
        .push(Opcode::MSet, &[b"a", b"1", b"b", b"2"])
        .expect("fits");
    builder.begin(Opcode::Exec);
    builder.watches([(&b"a"[..], 3), (&b"zz"[..], 0)]);
    builder.queued(Opcode::Incr, [&b"a"[..]]);
    builder.queued(Opcode::Scan, [&b"0"[..], b"match", b"*"]);
    builder.end().expect("fits");
    builder
        .push(Opcode::IncrByFloat, &[b"b", b"1.5"])
        .expect("fits");
    builder.operation().to_vec()
}

#[test]
fn malformed_operations_are_refused_and_never_panic() {
    let good = sample();
    let mut random = Random(42);
    let (mut a, mut b) = (Fixture::new(4 << 20), Fixture::new(4 << 20));
    a.machine.validate(&good).expect("well formed");
    let mut refused = 0;
    for case in 0..20_000 {
        let mut bytes = good.clone();
        match random.below(4) {
            0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
            1 => bytes.push(random.next() as u8),
            _ => {}
        }
        for _ in 0..random.below(4) {
            if !bytes.is_empty() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = *random.pick(&[0, 1, 255, 4, 100, 101, 128]);
            }
        }
        refused += u32::from(a.machine.validate(&bytes).is_err());
        let reply = a.apply(&bytes);
        assert_eq!(reply, b.apply(&bytes), "case {case}");
        ReplyReader::parse(&reply).expect("well formed");
        ReplyReader::parse(&a.query(&bytes)).expect("well formed");
    }
    assert!(refused > 5000, "{refused}");
    assert_identical(&a.machine, &b.machine);
    assert!(a.machine.verify());
}

#[test]
fn noise_is_refused_and_never_panics() {
    let mut random = Random(1);
    let mut fixture = Fixture::new(4 << 20);
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random.below(80))
            .map(|_| (random.next() % 12) as u8)
            .collect();
        fixture.apply(&bytes);
    }
    for size in 0..4 {
        assert!(fixture.machine.validate(&vec![0; size]).is_err());
    }
    assert!(
        fixture.machine.validate(&[0; 4]).is_ok(),
        "nothing to do is well formed"
    );
    assert!(fixture.machine.validate(&[255; 64]).is_err());
    assert!(fixture.machine.verify());
}

#[test]
fn malformed_and_forbidden_transactions_are_refused() {
    let fixture = Fixture::new(4 << 20);
    for opcode in [Opcode::Exec, Opcode::Version] {
        let mut builder = OperationBuilder::new(vec![0; 256]);
        builder.begin(Opcode::Exec);
        builder.watches([]);
        builder.queued(opcode, [&b"k"[..]]);
        builder.end().expect("fits");
        assert!(
            fixture.machine.validate(builder.operation()).is_err(),
            "{opcode:?} inside EXEC"
        );
    }
    let mut builder = OperationBuilder::new(vec![0; 256]);
    builder.push(Opcode::Exec, &[]).expect("fits");
    assert!(
        fixture.machine.validate(builder.operation()).is_err(),
        "no watch list"
    );
}

#[test]
fn a_query_that_writes_is_an_error_and_changes_nothing() {
    let mut fixture = Fixture::new(4 << 20);
    fixture.run("set a 1");
    let before = fixture.machine.digest();
    for words in [
        &[&b"set"[..], b"a", b"2"][..],
        &[b"getex", b"a"],
        &[b"incr", b"a"],
    ] {
        let reply = fixture.query(&pack(words));
        let text = ReplyReader::parse(&reply)
            .expect("well formed")
            .next()
            .expect("one")
            .to_vec();
        assert_eq!(
            text,
            b"-ERR this command may write and cannot be a query\r\n"
        );
    }
    assert_eq!(fixture.machine.digest(), before);
}

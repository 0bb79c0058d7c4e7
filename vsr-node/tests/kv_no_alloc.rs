//! The key-value machine allocates nothing after construction, whatever it executes (N20).

use vsr_consensus::{Context, StateMachine as _};
use vsr_node::kv::{KvMachine, Opcode, OperationBuilder};
use vsr_types::{Op, Timestamp, ViewStamp};

fn at(op: u64) -> Context {
    Context {
        stamp: ViewStamp {
            op: Op::new(op),
            ..ViewStamp::default()
        },
        timestamp: Timestamp::from_nanos(1_700_000_000_000_000_000 + op * 5_000_000),
        ..Context::default()
    }
}

/// One operation with a bit of everything about key number `index`.
fn pack(builder: &mut OperationBuilder<Vec<u8>>, index: usize) {
    let key = [b'k', (index % 251) as u8, (index / 251 % 7) as u8];
    let other = [b'o', (index % 13) as u8];
    let value = &[5; 3000][..index % 3000];
    let commands: [(Opcode, &[&[u8]]); 17] = [
        (Opcode::Set, &[&key, value]),
        (Opcode::Set, &[&other, b"10", b"PX", b"40", b"GET"]),
        (Opcode::Get, &[&key]),
        (Opcode::Append, &[&key, value]),
        (Opcode::SetRange, &[&key, b"4000", b"x"]),
        (Opcode::IncrBy, &[&other, b"7"]),
        (Opcode::IncrByFloat, &[&other, b"0.25"]),
        (Opcode::IncrByFloat, &[&other, b"1e300"]),
        (Opcode::MSet, &[b"a", value, b"b", b"2"]),
        (Opcode::MGet, &[b"a", b"b", &other]),
        (Opcode::Expire, &[&key, b"1"]),
        (Opcode::Rename, &[b"a", &other]),
        (Opcode::Scan, &[b"0", b"MATCH", b"*k*", b"COUNT", b"50"]),
        (Opcode::Keys, &[b"k?*"]),
        (Opcode::RandomKey, &[]),
        (Opcode::Del, &[b"b"]),
        (Opcode::Get, &[]),
    ];
    builder.clear();
    for (opcode, arguments) in commands {
        builder.push(opcode, arguments).expect("fits");
    }
    builder.begin(Opcode::Exec);
    builder.watches([(&key[..], 0)]);
    builder.queued(Opcode::Incr, [&b"n"[..]]);
    builder.end().expect("fits");
}

#[test]
fn executing_reading_scrubbing_and_installing_allocate_nothing() {
    let mut machine = KvMachine::new(4 << 20);
    let mut target = KvMachine::new(4 << 20);
    let mut builder = OperationBuilder::new(vec![0; 1 << 16]);
    let mut reply = vec![0; 1 << 20];
    let mut chunk = vec![0; machine.image_chunk_size()];
    let mut replied = 0;
    let allocated = allocation_counter::measure(|| {
        for op in 1..3000 {
            pack(&mut builder, op as usize);
            machine.validate(builder.operation()).expect("well formed");
            replied += machine.apply(&at(op), builder.operation(), &mut reply);
            replied += machine.query(&at(op), builder.operation(), &mut reply);
            machine.scrub(10_000);
        }
        let chunks = machine.image_chunks();
        target.image_begin(chunks).expect("fits");
        for index in 0..chunks {
            let size = machine.image_read(index, &mut chunk);
            target.image_put(index, &chunk[..size]).expect("belongs");
        }
        target.image_finish(Op::new(2999)).expect("a valid image");
    });
    assert!(replied > 1 << 20, "it did something");
    assert_eq!(target.digest(), machine.digest());
    assert_eq!(allocated.count_total, 0, "{allocated:?}");
}

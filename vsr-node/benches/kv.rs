//! What one command costs the key-value machine, beside the floors of the same run: hashing,
//! checksumming and copying the same bytes.
//!
//! `cargo bench -p vsr-node --bench kv`

#![allow(
    missing_docs,
    reason = "criterion's macros expand to undocumented items"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use vsr_consensus::{Context, Scrub, StateMachine};
use vsr_node::kv::{KvMachine, Opcode, OperationBuilder};
use vsr_types::{Op, Timestamp, ViewStamp, checksum};

const KEY_SIZE: usize = 16;
const VALUE_SIZE: usize = 100;
/// Commands in one operation, as a gateway under load packs them.
const PACKED: usize = 16;

fn key(index: u64) -> [u8; KEY_SIZE] {
    let mut key = *b"key:000000000000";
    let digits = index.to_string();
    key[KEY_SIZE - digits.len()..].copy_from_slice(digits.as_bytes());
    key
}

/// The next of a fixed sequence of well spread numbers.
fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    *state >> 33
}

fn at(op: u64) -> Context {
    Context {
        stamp: ViewStamp {
            op: Op::new(op),
            ..ViewStamp::default()
        },
        timestamp: Timestamp::from_nanos(1_700_000_000_000_000_000 + op * 1000),
        ..Context::default()
    }
}

/// Operations of `packed` commands each over `keys` keys.
fn operations(opcode: Opcode, keys: u64, packed: usize) -> Vec<Vec<u8>> {
    let mut random = 1;
    (0..4096)
        .map(|_| {
            let mut builder = OperationBuilder::new(vec![0; 4 + packed * 160]);
            for _ in 0..packed {
                let key = key(next(&mut random) % keys);
                let value = [random as u8; VALUE_SIZE];
                let arguments: &[&[u8]] = match opcode {
                    Opcode::Set => &[&key, &value],
                    Opcode::PSetEx => &[&key, b"60000", &value],
                    _ => &[&key],
                };
                builder.push(opcode, arguments).expect("fits");
            }
            builder.operation().to_vec()
        })
        .collect()
}

fn filled(keys: u64) -> KvMachine {
    let mut machine = KvMachine::new(1 << 29);
    let mut reply = vec![0; 1 << 16];
    for index in 0..keys {
        let mut builder = OperationBuilder::new(vec![0; 256]);
        builder
            .push(Opcode::Set, &[&key(index), &[7; VALUE_SIZE]])
            .expect("fits");
        machine.apply(&at(index + 1), builder.operation(), &mut reply);
    }
    machine
}

fn commands(c: &mut Criterion) {
    let mut reply = vec![0; 1 << 16];
    for keys in [1_000, 100_000, 1_000_000] {
        let mut machine = filled(keys);
        let mut op = keys;
        for (name, opcode) in [
            ("get", Opcode::Get),
            ("set", Opcode::Set),
            ("psetex", Opcode::PSetEx),
        ] {
            for packed in [1, PACKED] {
                let operations = operations(opcode, keys, packed);
                let mut group = c.benchmark_group(format!("kv/{name}/{packed} per operation"));
                group.throughput(Throughput::Elements(packed as u64));
                group.bench_function(BenchmarkId::from_parameter(keys), |bencher| {
                    bencher.iter(|| {
                        op += 1;
                        let operation = &operations[op as usize % operations.len()];
                        black_box(machine.apply(&at(op), operation, &mut reply))
                    });
                });
                group.finish();
            }
        }
        c.bench_function(&format!("kv/digest/{keys}"), |bencher| {
            bencher.iter(|| black_box(machine.digest()));
        });
    }
}

/// Going over the whole state, a mebibyte at a time: the scrubber, and the proof of an image.
fn integrity(c: &mut Criterion) {
    const STEP: usize = 1 << 20;
    let mut machine = filled(1_000_000);
    let mut group = c.benchmark_group("kv/integrity");
    group.throughput(Throughput::Bytes(STEP as u64));
    group.bench_function("scrub", |bencher| {
        bencher.iter(|| assert_eq!(machine.scrub(STEP), Scrub::Clean));
    });
    let chunks = machine.image_chunks();
    machine.image_begin(chunks).expect("fits");
    group.bench_function("image_verify", |bencher| {
        bencher.iter(|| {
            if machine.image_verify(STEP).expect("a state") {
                machine.image_begin(chunks).expect("fits");
            }
        });
    });
    group.finish();
}

fn floors(c: &mut Criterion) {
    let source = vec![3; KEY_SIZE + VALUE_SIZE + 24];
    let mut target = source.clone();
    let mut group = c.benchmark_group("floor");
    group.throughput(Throughput::Bytes(source.len() as u64));
    group.bench_function("checksum of an entry", |bencher| {
        bencher.iter(|| checksum(black_box(&source)));
    });
    group.bench_function("copy of an entry", |bencher| {
        bencher.iter(|| black_box(&mut target).copy_from_slice(black_box(&source)));
    });
    group.finish();
}

criterion_group! {
    name = kv;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = commands, integrity, floors
}
criterion_main!(kv);

//! The text protocol per command: parse, look up, pack, and write the reply, against the floor of
//! copying the same bytes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use vsr_node::kv::{OperationBuilder, lookup};
use vsr_node::resp::{Args, ParseLimits, Parsed, Protocol, append_reply, parse};

const LIMITS: ParseLimits = ParseLimits {
    arguments_max: 65_536,
    command_size_max: 1 << 20,
    authenticated: true,
};
/// A pipeline, as `redis-benchmark -P 64` sends it.
const COMMANDS: usize = 64;

fn pipeline(command: &str) -> Vec<u8> {
    let words: Vec<String> = match command {
        "set" => vec!["SET".into(), "key:000000012345".into(), "x".repeat(128)],
        _ => vec!["GET".into(), "key:000000012345".into()],
    };
    let mut one = format!("*{}\r\n", words.len());
    for word in words {
        one.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    one.repeat(COMMANDS).into_bytes()
}

/// Parses all of `input`; returns how many arguments there were.
fn parse_all(input: &[u8], args: &mut Args) -> usize {
    let (mut at, mut sum) = (0, 0);
    while at < input.len() {
        match parse(&input[at..], &LIMITS, args) {
            Ok(Parsed::Command { consumed }) => at += consumed,
            other => panic!("{other:?}"),
        }
        sum += args.len();
    }
    sum
}

/// Parses, looks up and packs all of `input`.
fn pack_all(input: &[u8], args: &mut Args, builder: &mut OperationBuilder<Vec<u8>>) -> usize {
    builder.clear();
    let mut at = 0;
    while at < input.len() {
        let rest = &input[at..];
        let Ok(Parsed::Command { consumed }) = parse(rest, &LIMITS, args) else {
            panic!("a whole command");
        };
        let spec = lookup(args.get(rest, 0)).expect("a known command");
        builder.begin(spec.opcode().expect("a machine command"));
        for argument in args.iter_from(rest, 1) {
            builder.argument(argument);
        }
        builder.end().expect("it fits");
        at += consumed;
    }
    builder.operation().len()
}

fn requests(c: &mut Criterion) {
    for command in ["set", "get"] {
        let input = pipeline(command);
        let mut group = c.benchmark_group(format!("resp/{command}"));
        group.throughput(Throughput::Elements(COMMANDS as u64));
        let mut args = Args::new();
        let mut copy = vec![0; input.len()];
        group.bench_function("floor: memcpy", |b| {
            b.iter(|| copy.copy_from_slice(black_box(&input)));
        });
        group.bench_function("parse", |b| {
            b.iter(|| parse_all(black_box(&input), &mut args))
        });
        let mut builder = OperationBuilder::new(vec![0; 1 << 20]);
        group.bench_function("parse, look up, pack", |b| {
            b.iter(|| pack_all(black_box(&input), &mut args, &mut builder));
        });
        group.finish();
    }
}

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("resp/reply");
    group.throughput(Throughput::Elements(COMMANDS as u64));
    let bulk = format!("$128\r\n{}\r\n", "x".repeat(128)).into_bytes();
    let array = format!("*2\r\n{}_\r\n", String::from_utf8_lossy(&bulk)).into_bytes();
    for (name, reply) in [
        ("ok", &b"+OK\r\n"[..]),
        ("bulk", &bulk),
        ("array with null", &array),
    ] {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let mut out = Vec::with_capacity(64 * 1024);
            group.bench_function(format!("{name} {protocol:?}"), |b| {
                b.iter(|| {
                    out.clear();
                    for _ in 0..COMMANDS {
                        assert!(append_reply(
                            &mut out,
                            black_box(reply),
                            protocol,
                            b"$-1\r\n"
                        ));
                    }
                    out.len()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, requests, replies);
criterion_main!(benches);

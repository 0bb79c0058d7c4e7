//! No operation does much more than one step may, and nothing is lost by that.

use super::support::{Fixture, assert_identical, only};
use crate::kv::{Opcode, OperationBuilder, ReplyReader, STRING_SIZE_MAX};

const TOO_MUCH: &str =
    "-ERR too much work for one step of the cluster: name fewer keys or smaller values\r\n";
const TOO_MANY: &str =
    "-ERR KEYS would look at more keys than one step of the cluster may; use SCAN\r\n";

/// A machine with `count` keys of one letter and a number.
fn filled(memory: usize, count: usize) -> Fixture {
    let mut fixture = Fixture::new(memory);
    let mut builder = OperationBuilder::new(vec![0; 1 << 20]);
    let keys: Vec<String> = (0..count).map(|index| format!("k{index}")).collect();
    for keys in keys.chunks(1000) {
        builder.clear();
        for key in keys {
            builder
                .push(Opcode::Set, &[key.as_bytes(), b"v"])
                .expect("fits");
        }
        fixture.apply(builder.operation());
    }
    assert_eq!(fixture.run("dbsize"), format!(":{count}\r\n"));
    fixture
}

/// The same command `count` times.
fn repeated(opcode: Opcode, arguments: &[&[u8]], count: usize) -> Vec<u8> {
    let size = 64 + arguments.iter().map(|bytes| bytes.len() + 4).sum::<usize>();
    let mut builder = OperationBuilder::new(vec![0; 64 + size * count]);
    for _ in 0..count {
        builder.push(opcode, arguments).expect("fits");
    }
    builder.operation().to_vec()
}

fn executed(reply: &[u8]) -> u32 {
    ReplyReader::parse(reply).expect("well formed").executed()
}

#[test]
fn keys_answers_for_a_small_table_and_names_scan_for_a_large_one() {
    let mut fixture = filled(32 << 20, 50_000);
    assert_eq!(fixture.run("keys k4999"), "*1\r\n$5\r\nk4999\r\n");
    fixture.run("set one-more v");
    assert_eq!(fixture.run("keys k4999"), TOO_MANY);
    fixture.run("del one-more");
    assert_eq!(fixture.run("keys nosuch*"), "*0\r\n");
}

#[test]
fn walks_over_the_whole_table_do_not_follow_each_other_in_one_operation() {
    let mut fixture = filled(32 << 20, 45_000);
    let operation = repeated(Opcode::Keys, &[b"nosuch*"], 50);
    let query = fixture.query(&operation);
    let applied = fixture.apply(&operation);
    for reply in [query, applied] {
        assert!((1..4).contains(&executed(&reply)), "{}", executed(&reply));
    }
}

#[test]
fn a_scan_that_finds_nothing_comes_back_all_the_same() {
    let mut fixture = filled(64 << 20, 300_000);
    let (mut cursor, mut calls) = ("0".to_owned(), 0);
    loop {
        let reply = fixture.run(&format!("scan {cursor} match nosuch* count 1000000000"));
        let next = reply.split("\r\n").nth(2).expect("a cursor");
        cursor = next.to_owned();
        calls += 1;
        if cursor == "0" {
            break;
        }
    }
    assert!((4..40).contains(&calls), "{calls} calls");
}

#[test]
fn a_pattern_that_never_ends_is_refused() {
    let mut fixture = Fixture::new(16 << 20);
    fixture.words(&[b"set", &b"a".repeat(100_000), b"v"]);
    let pattern = [b"*".to_vec(), b"a".repeat(5000), b"b".to_vec()].concat();
    let slow = "-ERR the pattern takes more steps than one step of the cluster may\r\n";
    // Up to the bucket of the key, and then no further.
    let first = fixture.words(&[b"scan", b"0", b"match", &pattern, b"count", b"1000"]);
    let first = String::from_utf8(first).expect("text");
    let next = first.split("\r\n").nth(2).unwrap_or("0");
    assert_ne!(next, "0", "{first}");
    assert_eq!(
        fixture.words(&[b"scan", next.as_bytes(), b"match", &pattern]),
        slow.as_bytes()
    );
    assert_eq!(fixture.words(&[b"keys", &pattern]), TOO_MANY.as_bytes());
}

#[test]
fn one_large_value_named_many_times_is_not_read_many_times() {
    let mut fixture = Fixture::new(16 << 20);
    let value = vec![1; STRING_SIZE_MAX];
    fixture.words(&[b"set", b"k", &value]);
    let many: Vec<&[u8]> = core::iter::once(&b"exists"[..])
        .chain(core::iter::repeat_n(&b"k"[..], 60_000))
        .collect();
    assert_eq!(fixture.words(&many), TOO_MUCH.as_bytes());
    assert_eq!(fixture.words(&many[..5]), b":4\r\n");
    let reads = repeated(Opcode::StrLen, &[b"k"], 1000);
    assert!(executed(&fixture.query(&reads)) < 200);
    let writes = repeated(Opcode::SetRange, &[b"k", b"0", b"x"], 1000);
    let done = executed(&fixture.apply(&writes));
    assert!((1..200).contains(&done), "{done}");
}

#[test]
fn many_large_values_are_not_removed_at_once() {
    let mut fixture = Fixture::new(64 << 20);
    let value = vec![1; 1_000_000];
    let names: Vec<String> = (0..40).map(|index| format!("k{index}")).collect();
    for name in &names {
        assert_eq!(
            fixture.words(&[b"set", name.as_bytes(), &value]),
            b"+OK\r\n"
        );
    }
    let all: Vec<&[u8]> = core::iter::once(&b"del"[..])
        .chain(names.iter().map(String::as_bytes))
        .collect();
    assert_eq!(fixture.words(&all), TOO_MUCH.as_bytes());
    assert_eq!(fixture.run("dbsize"), ":40\r\n", "none is removed");
    assert_eq!(fixture.words(&all[..11]), b":10\r\n");
    let pairs: Vec<&[u8]> = core::iter::once(&b"mset"[..])
        .chain(names.iter().flat_map(|name| [name.as_bytes(), &b"v"[..]]))
        .collect();
    assert_eq!(fixture.words(&pairs), TOO_MUCH.as_bytes());
    assert_eq!(fixture.run("strlen k39"), ":1000000\r\n");
}

#[test]
fn a_transaction_that_has_done_enough_executes_nothing_more_and_says_so() {
    let mut fixture = filled(32 << 20, 45_000);
    let mut builder = OperationBuilder::new(vec![0; 1 << 16]);
    builder.begin(Opcode::Exec);
    builder.watches([]);
    builder.queued(Opcode::Set, [&b"first"[..], b"v"]);
    for _ in 0..20 {
        builder.queued(Opcode::Keys, [&b"nosuch*"[..]]);
    }
    builder.queued(Opcode::Set, [&b"last"[..], b"v"]);
    builder.end().expect("fits");
    let reply = String::from_utf8(only(&fixture.apply(builder.operation()))).expect("text");
    assert!(reply.starts_with("*22\r\n+OK\r\n*0\r\n"), "{reply}");
    assert!(reply.matches("*0\r\n").count() < 4, "{reply}");
    assert!(reply.ends_with(TOO_MUCH), "{reply}");
    assert_eq!(fixture.run("exists first last"), ":1\r\n");
}

#[test]
fn an_operation_in_pieces_ends_in_the_same_state_everywhere() {
    let mut builder = OperationBuilder::new(vec![0; 1 << 16]);
    let mut machines = [Fixture::new(16 << 20), Fixture::new(16 << 20)];
    let value = vec![7; 900_000];
    let mut pieces = [0, 0];
    for (fixture, pieces) in machines.iter_mut().zip(&mut pieces) {
        fixture.words(&[b"set", b"k", &value]);
        let mut left = 300;
        while left > 0 {
            builder.clear();
            for _ in 0..left {
                builder.push(Opcode::Append, &[b"k", b"x"]).expect("fits");
            }
            left -= executed(&fixture.apply(builder.operation()));
            *pieces += 1;
        }
        assert_eq!(fixture.run("strlen k"), ":900300\r\n");
    }
    assert!(pieces[0] > 3 && pieces[0] == pieces[1], "{pieces:?}");
    assert_identical(&machines[0].machine, &machines[1].machine);
    assert!(machines[0].machine.verify());
}

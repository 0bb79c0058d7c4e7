//! Large values, many keys, and iteration over them.

use super::support::{Fixture, Random};
use crate::kv::STRING_SIZE_MAX;
use std::collections::BTreeSet;
use vsr_consensus::StateMachine as _;

/// One SCAN: the next cursor and the keys.
fn scan(fixture: &mut Fixture, cursor: u64, options: &str) -> (u64, Vec<String>) {
    let reply = fixture.run(&format!("scan {cursor}{options}"));
    let mut lines = reply.split("\r\n").skip(2);
    let cursor = lines
        .next()
        .and_then(|line| line.parse().ok())
        .expect("a cursor");
    let keys = lines
        .skip(1)
        .filter(|line| !line.is_empty() && !line.starts_with('$'));
    (cursor, keys.map(str::to_owned).collect())
}

#[test]
fn a_scan_returns_every_key_that_stays_exactly_once_whatever_else_changes() {
    let mut fixture = Fixture::new(8 << 20);
    for index in 0..3000 {
        fixture.run(&format!("set stays:{index} v"));
    }
    let mut random = Random(8);
    let mut seen = Vec::new();
    let mut cursor = 0;
    loop {
        let (next, keys) = scan(&mut fixture, cursor, " count 20 match stays:*");
        seen.extend(keys);
        for _ in 0..20 {
            let other = random.below(3000);
            fixture.run(&format!("set other:{other} v"));
            fixture.run(&format!("del other:{}", random.below(3000)));
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen.len(), 3000);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3000);
}

#[test]
fn a_nearly_empty_table_is_scanned_in_few_calls() {
    let mut fixture = Fixture::new(64 << 20);
    fixture.run("set only v");
    let (mut cursor, mut calls, mut seen) = (0, 0, 0);
    loop {
        let (next, keys) = scan(&mut fixture, cursor, "");
        (cursor, calls, seen) = (next, calls + 1, seen + keys.len());
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen, 1);
    assert!(calls <= 64, "{calls} calls");
}

#[test]
fn a_scan_whose_keys_fill_the_reply_goes_on_where_it_stopped() {
    let mut fixture = Fixture::new(16 << 20);
    let long = "k".repeat(50_000);
    for index in 0..60 {
        fixture.run(&format!("set {long}{index} v"));
    }
    let (mut cursor, mut calls, mut seen) = (0, 0, BTreeSet::new());
    loop {
        let (next, keys) = scan(&mut fixture, cursor, " count 1000");
        seen.extend(keys);
        cursor = next;
        calls += 1;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen.len(), 60);
    assert!((3..20).contains(&calls), "{calls}");
    assert_eq!(fixture.run("keys *"), "-ERR reply too large\r\n");
}

#[test]
fn random_keys_differ_by_place_in_the_order_and_agree_at_one_place() {
    let mut fixture = Fixture::new(8 << 20);
    for index in 0..100 {
        fixture.run(&format!("set key:{index} v"));
    }
    let query = super::support::pack(&[b"randomkey"]);
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        fixture.op += 1;
        let key = fixture.query(&query);
        assert_eq!(fixture.query(&query), key);
        seen.insert(key);
    }
    assert!(seen.len() > 40, "{} of 100", seen.len());
}

#[test]
fn values_are_limited_to_what_an_operation_can_carry() {
    const TOO_LARGE: &[u8] = b"-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n";
    let mut fixture = Fixture::new(16 << 20);
    let largest = vec![1; STRING_SIZE_MAX];
    assert_eq!(fixture.words(&[b"set", b"k", &largest]), b"+OK\r\n");
    assert_eq!(fixture.words(&[b"get", b"k"]).len(), STRING_SIZE_MAX + 12);
    assert_eq!(
        fixture.words(&[b"getset", b"k", &largest]).len(),
        STRING_SIZE_MAX + 12
    );
    assert_eq!(fixture.words(&[b"append", b"k", b"x"]), TOO_LARGE);
    let too_far = STRING_SIZE_MAX.to_string();
    assert_eq!(
        fixture.words(&[b"setrange", b"k", too_far.as_bytes(), b"x"]),
        TOO_LARGE
    );
    let larger = vec![1; STRING_SIZE_MAX + 1];
    assert_eq!(fixture.words(&[b"set", b"k", &larger]), TOO_LARGE);
    assert_eq!(
        fixture.words(&[b"mset", b"a", b"b", b"k", &larger]),
        TOO_LARGE
    );
    assert_eq!(fixture.run("exists a"), ":0\r\n");
    let last = (STRING_SIZE_MAX - 1).to_string();
    assert_eq!(
        fixture.words(&[b"setrange", b"k", last.as_bytes(), b"x"]),
        format!(":{STRING_SIZE_MAX}\r\n").into_bytes()
    );
    assert!(fixture.machine.verify());
}

#[test]
fn a_machine_full_of_small_keys_still_answers_and_empties() {
    let mut fixture = Fixture::new(4 << 20);
    let mut count = 0;
    while fixture.run(&format!("set {count} v")) == "+OK\r\n" {
        count += 1;
    }
    assert!(count > 40_000, "{count} keys in 4 MiB");
    assert_eq!(fixture.run("dbsize"), format!(":{count}\r\n"));
    let before = fixture.machine.digest();
    assert!(
        fixture
            .run("mset a 1 b 2")
            .starts_with("-OOM command not allowed")
    );
    assert_eq!(fixture.machine.digest(), before, "all or nothing");
    assert_eq!(
        fixture.run("set 5 w"),
        "+OK\r\n",
        "what fits in place is allowed"
    );
    for index in (0..count).rev() {
        assert_eq!(fixture.run(&format!("del {index}")), ":1\r\n");
    }
    assert!(fixture.machine.verify());
    assert_eq!(fixture.machine.kv_report().used_bytes, 0);
}

//! Keys go exactly when their time has come, and their memory soon after.

use super::support::{Fixture, Random};
use std::collections::BTreeMap;

#[test]
fn every_key_goes_at_its_own_millisecond() {
    let mut fixture = Fixture::new(8 << 20);
    let start = fixture.now;
    let mut random = Random(1);
    let mut deadlines = BTreeMap::new();
    for index in 0..2000 {
        // Near and far: all the lower levels of the wheel.
        let lifetime = 1 + random.below(1 << (1 + index % 22));
        fixture.run(&format!("set key:{index} v px {lifetime}"));
        deadlines.insert(index, start + lifetime);
    }
    while !deadlines.is_empty() {
        let next = *deadlines.values().min().expect("not empty");
        for now in [next - 1, next] {
            fixture.now = now.max(fixture.now);
            for (index, deadline) in deadlines.iter().filter(|(_, at)| **at <= next + 1) {
                let expected = if *deadline > fixture.now {
                    ":1\r\n"
                } else {
                    ":0\r\n"
                };
                assert_eq!(fixture.run(&format!("exists key:{index}")), expected);
            }
        }
        deadlines.retain(|_, deadline| *deadline > next);
    }
    assert!(fixture.machine.verify());
    let report = fixture.machine.kv_report();
    assert_eq!((report.keys, report.expiring, report.used_bytes), (0, 0, 0));
}

#[test]
fn one_operation_sweeps_a_bounded_number_and_the_rest_is_gone_all_the_same() {
    let mut fixture = Fixture::new(8 << 20);
    for index in 0..5000 {
        fixture.run(&format!("set key:{index} v pxat {}", fixture.now + 60_000));
    }
    fixture.now += 60_000;
    let mut left = 5000;
    let mut operations = 0;
    while left > 0 {
        assert_eq!(fixture.run("exists key:1 key:4999"), ":0\r\n");
        assert!(fixture.machine.verify());
        let keys = fixture.machine.kv_report().keys;
        assert!(left - keys <= 32, "{} in one operation", left - keys);
        left = keys;
        operations += 1;
        assert!(operations < 2000, "the sweep makes progress");
    }
    assert!(operations > 100);
}

#[test]
fn keys_set_anew_or_persisted_outlive_their_old_deadline() {
    let mut fixture = Fixture::new(8 << 20);
    for index in 0..100 {
        fixture.run(&format!("set key:{index} v px 1000"));
    }
    for index in 0..50 {
        fixture.run(&format!("persist key:{index}"));
    }
    for index in 50..75 {
        fixture.run(&format!("pexpire key:{index} 5000"));
    }
    for step in 0..100 {
        fixture.now += 17;
        fixture.run(&format!("get key:{step}"));
    }
    assert_eq!(fixture.run("dbsize"), ":75\r\n");
    fixture.now += 1 << 40;
    for _ in 0..10 {
        fixture.run("get nothing");
    }
    assert_eq!(fixture.run("dbsize"), ":50\r\n");
    assert!(fixture.machine.verify());
}

#[test]
fn deadlines_at_the_end_of_time_are_kept() {
    let mut fixture = Fixture::new(8 << 20);
    fixture.run("set a 1 pxat 9223372036854775807");
    fixture.run("set b 1 pxat 300000000000000");
    fixture.now += 1 << 42;
    assert_eq!(fixture.run("exists a b"), ":2\r\n");
    assert_eq!(fixture.run("pexpiretime a"), ":9223372036854775807\r\n");
    assert_eq!(fixture.run("persist a"), ":1\r\n");
    assert!(fixture.machine.verify());
}

#[test]
fn empty_operations_at_the_times_asked_for_let_keys_go_in_time() {
    let mut fixture = Fixture::new(8 << 20);
    assert_eq!(fixture.machine.next_expiry(), None);
    let query = super::support::pack(&[b"exists", b"a"]);
    for lifetime in [1, 63, 64, 1000, 100_000, 1 << 33] {
        fixture.run(&format!("set a 1 px {lifetime}"));
        let deadline = fixture.now + lifetime;
        let mut operations = 0;
        while let Some(next) = fixture.machine.next_expiry() {
            assert!(next <= deadline);
            fixture.now = fixture.now.max(next);
            fixture.apply(&[0; 4]);
            let expected: &[u8] = if fixture.now < deadline {
                b":1\r\n"
            } else {
                b":0\r\n"
            };
            assert_eq!(super::support::only(&fixture.query(&query)), expected);
            operations += 1;
        }
        assert_eq!(fixture.now, deadline);
        assert!(operations <= 8, "at most one per level of the wheel");
    }
}

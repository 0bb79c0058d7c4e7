//! Flipped bits: found by the scrubber, and never answered from.

use super::support::Fixture;
use crate::kv::arena::CHUNK_SIZE;
use crate::kv::layout::{Globals, KEY_AT, TABLE_AT};
use vsr_consensus::{Scrub, StateMachine as _};

fn small() -> Fixture {
    let mut fixture = Fixture::new(4 << 20);
    for index in 0..50 {
        fixture.run(&format!("set key:{index} value-of-{index}"));
    }
    fixture.run("expire key:7 100");
    fixture
}

/// Scrubs one whole round.
fn scrub(fixture: &mut Fixture) -> Scrub {
    fixture.machine.scrub(usize::MAX)
}

#[test]
fn every_flipped_bit_of_an_entry_in_use_is_found() {
    let mut fixture = small();
    assert_eq!(scrub(&mut fixture), Scrub::Clean);
    let store = &fixture.machine.store;
    let place = store.find(b"key:7").place;
    let size = KEY_AT + store.entry(place).content.len();
    for offset in 0..size {
        for bit in 0..8 {
            fixture.machine.store.arena.flip(place.at() + offset, bit);
            let found = scrub(&mut fixture);
            let Scrub::Corrupt(chunk) = found else {
                panic!("byte {offset} bit {bit} was not noticed");
            };
            // A damaged link leads astray, and what is named is where it leads or lies.
            let own = (place.at() / CHUNK_SIZE) as u64;
            assert!(
                chunk == own || offset < KEY_AT,
                "byte {offset}: chunk {chunk}"
            );
            fixture.machine.store.arena.flip(place.at() + offset, bit);
            assert_eq!(scrub(&mut fixture), Scrub::Clean);
        }
    }
}

#[test]
fn flipped_bits_of_the_table_and_the_counters_are_found() {
    let mut fixture = small();
    for at in (0..size_of::<Globals>()).chain(TABLE_AT..TABLE_AT + 400) {
        fixture.machine.store.arena.flip(at, 3);
        assert!(
            matches!(scrub(&mut fixture), Scrub::Corrupt(_)),
            "byte {at}"
        );
        fixture.machine.store.arena.flip(at, 3);
    }
    assert_eq!(scrub(&mut fixture), Scrub::Clean);
}

#[test]
fn scrubbing_goes_round_within_its_budget() {
    let mut fixture = small();
    let place = fixture.machine.store.find(b"key:9").place;
    fixture.machine.store.arena.flip(place.at() + KEY_AT + 6, 0);
    let mut calls = 0;
    while fixture.machine.scrub(256) == Scrub::Clean {
        calls += 1;
        assert!(calls < 100, "1024 buckets and 50 entries take fewer calls");
    }
    assert!(calls > 0, "one call does not scrub everything");
}

#[test]
#[should_panic(expected = "state is corrupt: an entry fails its checksum")]
fn a_damaged_value_is_not_answered() {
    let mut fixture = small();
    let place = fixture.machine.store.find(b"key:7").place;
    fixture.machine.store.arena.flip(place.at() + KEY_AT + 8, 0);
    fixture.run("get key:7");
}

#[test]
#[should_panic(expected = "state is corrupt: an entry fails its checksum")]
fn a_damaged_key_is_not_reported_as_absent() {
    let mut fixture = small();
    let place = fixture.machine.store.find(b"key:7").place;
    fixture.machine.store.arena.flip(place.at() + KEY_AT + 1, 0);
    fixture.run("get key:7");
}

#[test]
#[should_panic(expected = "state is corrupt: the two copies of the machine's counters differ")]
fn damaged_counters_stop_the_machine() {
    let mut fixture = small();
    fixture.machine.store.arena.flip(32, 0);
    fixture.run("dbsize");
}

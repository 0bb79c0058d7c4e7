//! Flipped bits: found by whoever uses what they hit or by one round of the scrubber, never answered
//! from, and repaired by the chunks that are named.

use std::time::Instant;

use super::support::{Fixture, Random, assert_identical, image, pack};
use crate::kv::KvMachine;
use crate::kv::arena::CHUNK_SIZE;
use crate::kv::layout::{Globals, KEY_AT, LINKS_AT, TABLE_AT};
use vsr_consensus::{CHUNK_UNKNOWN, Scrub, StateMachine as _};
use vsr_types::Op;

/// The smallest arena there can be: its image is small enough to flip all of it.
const TINY: usize = 2 * CHUNK_SIZE;

/// Entries of all sizes, with and without deadlines, and holes of several sizes between them.
fn varied(fixture: &mut Fixture) {
    for index in 0..60 {
        let value = vec![b'v'; index * index % 700];
        let key = format!("key:{index}");
        fixture.words(&[b"set", key.as_bytes(), &value]);
        if index % 5 == 0 {
            fixture.run(&format!("pexpire {key} {}", 1000 + index * 7777));
        }
    }
    for index in (0..60).step_by(7) {
        fixture.run(&format!("del key:{index}"));
    }
    // Shorter than the block that it stays in.
    fixture.run("set key:1 vvv");
    fixture.run("append key:2 vvv");
}

fn tiny() -> Fixture {
    let mut fixture = Fixture::with(KvMachine::tiny(TINY));
    varied(&mut fixture);
    fixture
}

/// All chunks that one round names.
fn scrub_round(machine: &mut KvMachine) -> Vec<u64> {
    let mut found = Vec::new();
    // A call ends with what it finds, or at the end of the round.
    for _ in 0..6 {
        let Scrub::Corrupt(chunk) = machine.scrub(usize::MAX) else {
            break;
        };
        found.extend((0..machine.damaged_span()).map(|more| chunk.saturating_add(more)));
    }
    found
}

/// Puts the chunks from a healthy machine into one that is in use.
fn repair(machine: &mut KvMachine, healthy: &[Vec<u8>], chunks: &[u64], at: u64) {
    machine.image_begin(healthy.len() as u64).expect("fits");
    for chunk in chunks {
        machine
            .image_put(*chunk, &healthy[*chunk as usize])
            .expect("belongs");
    }
    machine.image_finish(Op::new(at)).expect("sound again");
}

/// Some of everything that can be asked and done.
fn questions() -> [Vec<u8>; 8] {
    [
        pack(&[b"get", b"key:9"]),
        pack(&[b"mget", b"key:1", b"key:2", b"key:5", b"nothing", b"key:59"]),
        pack(&[b"scan", b"0", b"count", b"1000"]),
        pack(&[b"dbsize"]),
        pack(&[b"pttl", b"key:5"]),
        pack(&[b"randomkey"]),
        pack(&[b"strlen", b"key:11"]),
        pack(&[b"keys", b"*1*"]),
    ]
}

fn changes() -> [Vec<u8>; 6] {
    [
        pack(&[b"set", b"key:9", &[b'w'; 90]]),
        pack(&[b"set", b"new", &[b'w'; 300], b"px", b"70000"]),
        pack(&[b"append", b"key:20", b"more"]),
        pack(&[b"del", b"key:13", b"key:25"]),
        pack(&[b"getset", b"key:30", b"w"]),
        pack(&[b"persist", b"key:15"]),
    ]
}

/// What a sweep has counted.
#[derive(Debug, Default)]
struct Swept {
    flips: u64,
    by_query: u64,
    by_change: u64,
    by_scrub: u64,
}

/// Flips the bits of the image that `wanted` chooses, one at a time.
fn sweep(mut wanted: impl FnMut(usize, u8) -> bool) -> Swept {
    let mut fixture = tiny();
    let (healthy, op) = (image(&fixture.machine), fixture.op);
    assert!(scrub_round(&mut fixture.machine).is_empty());
    let queries: Vec<_> = questions()
        .map(|query| (fixture.query(&query), query))
        .into();
    let mut changed = fixture.clone();
    let changes: Vec<_> = changes()
        .map(|operation| (changed.apply(&operation), operation))
        .into();
    let (size, mut swept) = (healthy.iter().map(Vec::len).sum(), Swept::default());
    for at in 0..size {
        for bit in (0..8).filter(|bit| wanted(at, *bit)) {
            swept.flips += 1;
            fixture.machine.store.arena.flip(at, bit);
            let chunk = (at / CHUNK_SIZE) as u64;
            // One round of the scrubber finds it, and names the chunk.
            let found = scrub_round(&mut fixture.machine);
            assert!(found.contains(&chunk), "byte {at} bit {bit}: {found:?}");
            swept.by_scrub += 1;
            // Nothing wrong is answered, and what is noticed is named rightly.
            let noticed = ask(&mut fixture, &queries, false, (at, bit));
            swept.by_query += u64::from(noticed);
            let mut copy = fixture.clone();
            if !noticed {
                swept.by_change += u64::from(ask(&mut copy, &changes, true, (at, bit)));
            }
            repair(&mut fixture.machine, &healthy, &found, op);
            assert_eq!(fixture.machine.damaged(), None);
            assert!(fixture.machine.same_bytes(&healthy), "byte {at} bit {bit}");
        }
    }
    assert!(fixture.machine.verify());
    swept
}

/// Whether the damage was noticed; until then every reply is the right one.
fn ask(
    fixture: &mut Fixture,
    asked: &[(Vec<u8>, Vec<u8>)],
    changes: bool,
    (at, bit): (usize, u8),
) -> bool {
    for (right, question) in asked {
        let reply = if changes {
            fixture.apply(question)
        } else {
            fixture.query(question)
        };
        if let Some(first) = fixture.machine.damaged() {
            let named = first..first + fixture.machine.damaged_span();
            let chunk = (at / CHUNK_SIZE) as u64;
            assert!(named.contains(&chunk), "byte {at} bit {bit}: {named:?}");
            return true;
        }
        assert_eq!(reply, *right, "byte {at} bit {bit}");
    }
    false
}

#[test]
fn a_flipped_bit_of_every_byte_is_found_and_repaired_and_never_answered_from() {
    let began = Instant::now();
    let swept = sweep(|at, bit| at % 8 == usize::from(bit));
    eprintln!("{swept:?} in {:.1?}", began.elapsed());
    assert!(swept.flips > 30_000 && swept.by_query > 5000 && swept.by_change > 100);
}

/// Every bit of the image: `cargo test --release -p vsr-node --lib kv::tests::corruption -- --ignored`.
#[test]
#[ignore = "eight times the test above"]
fn every_flipped_bit_is_found_and_repaired_and_never_answered_from() {
    let began = Instant::now();
    let swept = sweep(|_, _| true);
    eprintln!("{swept:?} in {:.1?}", began.elapsed());
    assert_eq!(swept.flips, swept.by_scrub);
}

#[test]
fn each_kind_of_place_is_covered_by_the_tiny_image() {
    let fixture = tiny();
    let store = &fixture.machine.store;
    assert!(store.image_size() > TABLE_AT + 8192 + 10_000);
    assert!(store.globals.expiring > 5 && store.globals.first.count_ones() >= 1);
    let free: u32 = store
        .globals
        .second
        .iter()
        .map(|bits| bits.count_ones())
        .sum();
    assert!(free >= 4, "{free} sizes of free blocks");
}

/// A copy of the counters that is not in the arena.
#[test]
fn a_bit_of_the_working_counters_is_noticed_by_everybody() {
    let mut fixture = tiny();
    let healthy = image(&fixture.machine);
    let (get, op) = (pack(&[b"get", b"key:9"]), fixture.op);
    for at in 0..size_of::<Globals>() {
        for (bit, use_it) in [(0, 0), (3, 1), (5, 2), (7, 3)] {
            bytemuck::bytes_of_mut(&mut fixture.machine.store.globals)[at] ^= 1 << bit;
            match use_it {
                0 => assert!(fixture.query(&get).is_empty()),
                1 => assert!(fixture.apply(&get).is_empty()),
                2 => assert_eq!(fixture.machine.scrub(1000), Scrub::Corrupt(0)),
                _ => {
                    let mut bytes = vec![0; CHUNK_SIZE];
                    fixture.machine.image_read(0, &mut bytes);
                    assert_eq!(fixture.machine.damaged(), Some(0));
                }
            }
            repair(&mut fixture.machine, &healthy, &[0], op);
        }
    }
    assert!(fixture.machine.same_bytes(&healthy) && fixture.machine.verify());
}

/// The value lies in 17 chunks, and its checksum does not say where it is wrong.
#[test]
fn damage_in_an_entry_of_many_chunks_names_all_of_them() {
    let mut fixture = Fixture::new(8 << 20);
    fixture.words(&[b"set", b"large", &vec![9; 1_000_000]]);
    fixture.run("set small 1");
    let healthy = image(&fixture.machine);
    let place = fixture.machine.store.find(b"large").expect("sound").place;
    let (first, last) = (
        place.at() / CHUNK_SIZE,
        (place.at() + 1_000_000) / CHUNK_SIZE,
    );
    assert!(last - first >= 14);
    for at in [
        place.at() + KEY_AT + 5,
        place.at() + 500_000,
        place.at() + 1_000_000,
    ] {
        fixture.machine.store.arena.flip(at, 2);
        let found = scrub_round(&mut fixture.machine);
        assert!((first..=last).all(|chunk| found.contains(&(chunk as u64))));
        assert_eq!(fixture.run("get small"), "$1\r\n1\r\n");
        assert!(fixture.apply(&pack(&[b"get", b"large"])).is_empty());
        let op = fixture.op - 1;
        repair(&mut fixture.machine, &healthy, &found, op);
        assert!(fixture.machine.same_bytes(&healthy));
    }
}

/// An operation that meets damage half way has changed something; what it changed bears its number.
#[test]
fn an_operation_that_stops_half_way_is_made_good_by_what_changed_since() {
    let mut noticed = 0;
    for seed in 0..40 {
        let mut fixture = tiny();
        let mut donor = fixture.clone();
        let mut random = Random(seed);
        let victim = format!("key:{}", random.pick(&[1, 2, 3, 4, 5, 6, 8, 9, 10]));
        let place = fixture
            .machine
            .store
            .find(victim.as_bytes())
            .expect("sound")
            .place;
        let offset = random.below(80) as usize;
        fixture.machine.store.arena.flip(place.at() + offset, 1);
        let applied = fixture.op;
        let operation = pack(&[
            b"mset",
            b"a",
            b"1",
            b"key:50",
            b"2",
            victim.as_bytes(),
            b"3",
            b"b",
            b"4",
        ]);
        let right = donor.apply(&operation);
        let reply = fixture.apply(&operation);
        let Some(first) = fixture.machine.damaged() else {
            assert_eq!(reply, right);
            continue;
        };
        noticed += 1;
        assert!(reply.is_empty() && first != CHUNK_UNKNOWN);
        let span = fixture.machine.damaged_span();
        let (machine, source) = (&mut fixture.machine, &donor.machine);
        let wanted: Vec<u64> = (0..source.image_chunks())
            .filter(|chunk| {
                let changed =
                    |machine: &KvMachine| machine.image_changed_at(*chunk) > Op::new(applied);
                changed(source) || changed(machine) || (first..first + span).contains(chunk)
            })
            .collect();
        repair(machine, &image(source), &wanted, donor.op);
        assert_identical(machine, source);
        assert!(machine.verify());
    }
    assert!(noticed > 10, "{noticed} of 40");
}

#[test]
fn scrubbing_goes_round_within_its_budget_and_past_what_is_damaged() {
    let mut fixture = Fixture::new(4 << 20);
    for index in 0..500 {
        fixture.run(&format!("set key:{index} value-of-{index}"));
    }
    let at = |key: &[u8]| fixture.machine.store.find(key).expect("sound").place.at();
    let hits = [
        at(b"key:9") + KEY_AT + 6,
        at(b"key:99") + 1,
        at(b"key:499") + LINKS_AT,
    ];
    let rounds = fixture.machine.scrub_size() as usize / 4096 + 10;
    for _ in 0..rounds {
        assert_eq!(fixture.machine.scrub(4096), Scrub::Clean);
    }
    for at in hits {
        fixture.machine.store.arena.flip(at, 0);
    }
    let mut found = 0;
    let mut clean = 0;
    for _ in 0..2 * rounds {
        match fixture.machine.scrub(4096) {
            Scrub::Clean => clean += 1,
            Scrub::Corrupt(_) => found += 1,
        }
    }
    assert!(found >= 3, "{found} of 3 found in a round or two");
    assert!(clean > 20, "one call does not scrub everything: {clean}");
    assert_eq!(fixture.machine.damaged(), None, "scrubbing notes nothing");
}

/// The scrubber's place stays the start of a block, whatever is merged, split and given up around it.
#[test]
fn scrubbing_between_changes_never_mistakes_them_for_damage() {
    for seed in 0..4 {
        let mut fixture = Fixture::new(4 << 20);
        let mut plain = Fixture::new(4 << 20);
        let mut random = Random(seed);
        for step in 0..4000 {
            let key = format!("key:{}", random.below(300));
            let most = 1 << random.below(16);
            let value = vec![7; random.below(most) as usize];
            let operation = match random.below(40) {
                0 if step % 7 == 0 => pack(&[b"flushall"]),
                1..15 => pack(&[b"del", key.as_bytes()]),
                15..20 => pack(&[b"set", key.as_bytes(), &value, b"px", b"50"]),
                _ => pack(&[b"set", key.as_bytes(), &value]),
            };
            fixture.now += 3;
            plain.now = fixture.now;
            assert_eq!(fixture.apply(&operation), plain.apply(&operation));
            let budget = random.below(30_000) as usize;
            assert_eq!(
                fixture.machine.scrub(budget),
                Scrub::Clean,
                "seed {seed} step {step}"
            );
        }
        assert_identical(&fixture.machine, &plain.machine);
        assert!(fixture.machine.verify());
    }
}

/// A sound checksum does not make a lost entry right: what hangs together is compared.
#[test]
fn pieces_that_contradict_each_other_are_noticed() {
    let fixture = tiny();
    let find = |key: &[u8]| fixture.machine.store.find(key).expect("sound").place;
    let (with_deadline, without) = (find(b"key:5"), find(b"key:9"));
    let change = |place: crate::kv::layout::Place, change: fn(&mut crate::kv::layout::Links)| {
        let mut copy = fixture.clone();
        let mut links = copy.machine.store.links(place).expect("sound");
        change(&mut links);
        copy.machine.store.set_links(place, links);
        assert!(!copy.machine.verify());
        assert!(!scrub_round(&mut copy.machine).is_empty());
        let healthy = image(&copy.machine);
        let mut receiver = Fixture::with(KvMachine::tiny(TINY));
        receiver
            .machine
            .image_begin(healthy.len() as u64)
            .expect("fits");
        for (chunk, bytes) in healthy.iter().enumerate() {
            receiver
                .machine
                .image_put(chunk as u64, bytes)
                .expect("belongs");
        }
        assert!(receiver.machine.image_finish(Op::new(9)).is_err());
    };
    change(without, |links| links.hash ^= 1 << 20);
    change(without, |links| links.due_slot = 7);
    change(with_deadline, |links| links.due_slot += 1);
    change(with_deadline, |links| links.due_slot = 0);
}

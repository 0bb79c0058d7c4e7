//! The image is the state: a machine that took it in goes on like the one that gave it.

use super::support::{Fixture, Random, assert_identical, image, pack};
use crate::kv::layout::{BUCKETS_MIN, Globals, HEAD_SIZE, TABLE_AT};
use vsr_consensus::{CHUNK_UNKNOWN, ImageError, Scrub, StateMachine};
use vsr_types::Op;

fn busy(seed: u64, steps: u64) -> Fixture {
    let mut fixture = Fixture::new(8 << 20);
    run(&mut fixture, &mut Random(seed), steps);
    fixture
}

fn run(fixture: &mut Fixture, random: &mut Random, steps: u64) {
    for _ in 0..steps {
        fixture.now += random.below(10);
        let operation = operation(random);
        fixture.apply(&operation);
    }
}

fn operation(random: &mut Random) -> Vec<u8> {
    let key = format!("key:{}", random.below(2000));
    let value = vec![7; random.below(900) as usize];
    match random.below(8) {
        0 => pack(&[b"del", key.as_bytes()]),
        1 => pack(&[b"append", key.as_bytes(), b"more"]),
        2 => pack(&[b"set", key.as_bytes(), &value, b"px", b"3000"]),
        _ => pack(&[b"set", key.as_bytes(), &value]),
    }
}

fn install(into: &mut Fixture, chunks: &[Vec<u8>], at: u64) -> Result<(), ImageError> {
    into.machine.image_begin(chunks.len() as u64)?;
    for (index, chunk) in chunks.iter().enumerate().rev() {
        into.machine.image_put(index as u64, chunk)?;
    }
    into.machine.image_finish(Op::new(at))
}

#[test]
fn an_installed_image_goes_on_as_its_donor_byte_for_byte() {
    for seed in 0..3 {
        let mut donor = busy(seed, 6000);
        // The receiver has a past of its own.
        let mut receiver = busy(seed + 100, 3000 * seed);
        let chunks = image(&donor.machine);
        install(&mut receiver, &chunks, donor.op).expect("a valid image");
        assert_identical(&donor.machine, &receiver.machine);
        assert!(receiver.machine.verify());
        for chunk in 0..receiver.machine.image_chunks() {
            assert_eq!(receiver.machine.image_changed_at(chunk), Op::new(donor.op));
        }
        (receiver.op, receiver.now) = (donor.op, donor.now);
        let mut random = Random(seed + 7);
        for step in 0..3000 {
            donor.now += random.below(10);
            receiver.now = donor.now;
            let operation = operation(&mut random);
            assert_eq!(
                donor.apply(&operation),
                receiver.apply(&operation),
                "step {step}"
            );
        }
        assert_identical(&donor.machine, &receiver.machine);
        // Also when memory beyond the heap's end holds what an earlier life left there.
        assert_eq!(donor.run("flushall"), receiver.run("flushall"));
        run(&mut donor, &mut Random(5), 4000);
        run(&mut receiver, &mut Random(5), 4000);
        assert_identical(&donor.machine, &receiver.machine);
        assert!(receiver.machine.verify());
    }
}

#[test]
fn what_an_earlier_life_left_beyond_the_heap_does_not_come_back() {
    let mut donor = busy(30, 300);
    let mut receiver = busy(31, 9000);
    let chunks = image(&donor.machine);
    assert!(receiver.machine.image_chunks() > donor.machine.image_chunks());
    install(&mut receiver, &chunks, donor.op).expect("a valid image");
    (receiver.op, receiver.now) = (donor.op, donor.now);
    run(&mut donor, &mut Random(6), 5000);
    run(&mut receiver, &mut Random(6), 5000);
    assert_identical(&donor.machine, &receiver.machine);
}

#[test]
fn chunks_tell_the_op_of_their_last_change() {
    let mut fixture = busy(1, 3000);
    let mut random = Random(3);
    let mut before = image(&fixture.machine);
    let flush = pack(&[b"flushall"]);
    for step in 0..500 {
        let operation = match step {
            490 => flush.clone(),
            // The image may end somewhere else in the same chunk, and nothing else have changed there.
            _ if step % 3 == 0 => pack(&[b"del", format!("key:{}", step * 4).as_bytes()]),
            _ => operation(&mut random),
        };
        fixture.apply(&operation);
        let after = image(&fixture.machine);
        for (index, chunk) in after.iter().enumerate() {
            if before.get(index) != Some(chunk) {
                let changed = fixture.machine.image_changed_at(index as u64);
                assert_eq!(changed, Op::new(fixture.op), "chunk {index}");
            }
        }
        before = after;
    }
}

#[test]
fn what_is_no_state_is_refused_and_leaves_a_machine_that_answers_nothing() {
    let donor = busy(4, 4000);
    let good = image(&donor.machine);
    let mut random = Random(11);
    let mut receiver = Fixture::new(8 << 20);
    for case in 0..60 {
        let mut chunks = good.clone();
        // Flip a bit of something that is meant: the free bytes inside blocks are not.
        let (chunk, at) = match case % 3 {
            0 => (0, random.below(size_of::<Globals>() as u64) as usize),
            1 => (
                0,
                TABLE_AT + random.below(BUCKETS_MIN * HEAD_SIZE as u64) as usize,
            ),
            _ => {
                let bytes = good
                    .iter()
                    .position(|chunk| chunk.contains(&7))
                    .expect("values");
                let at = good[bytes]
                    .iter()
                    .position(|byte| *byte == 7)
                    .expect("a value");
                (bytes, at)
            }
        };
        chunks[chunk][at] ^= 1 << random.below(8);
        let outcome = install(&mut receiver, &chunks, 9);
        // The wheel's time and the version counter are whatever they say they are: the digest covers
        // them, and the receiver compares it with the donor's.
        if outcome == Ok(()) {
            assert_ne!(
                receiver.machine.digest(),
                donor.machine.digest(),
                "case {case}"
            );
        } else {
            assert_eq!(outcome, Err(ImageError::Invalid), "case {case}");
            assert_eq!(receiver.machine.damaged(), Some(CHUNK_UNKNOWN));
            assert!(receiver.apply(&pack(&[b"set", b"a", b"1"])).is_empty());
            assert!(receiver.query(&pack(&[b"get", b"a"])).is_empty());
            assert_eq!(
                receiver.machine.scrub(1 << 20),
                Scrub::Corrupt(CHUNK_UNKNOWN)
            );
        }
    }
    install(&mut receiver, &good, 9).expect("still able to take a good one");
    assert_eq!(receiver.machine.damaged(), None);
    assert_identical(&donor.machine, &receiver.machine);
}

#[test]
fn chunks_that_do_not_belong_are_refused() {
    let donor = busy(4, 1000);
    let good = image(&donor.machine);
    let count = good.len() as u64;
    let mut receiver = Fixture::new(8 << 20);
    let machine = &mut receiver.machine;
    assert_eq!(
        machine.image_put(0, &good[0]),
        Err(ImageError::BadChunk),
        "not begun"
    );
    assert_eq!(
        machine.image_finish(Op::new(1)),
        Err(ImageError::Invalid),
        "not begun"
    );
    assert_eq!(machine.image_begin(1 << 40), Err(ImageError::TooLarge));
    assert_eq!(machine.image_begin(129), Err(ImageError::TooLarge));
    machine.image_begin(count).expect("fits");
    assert_eq!(
        machine.image_put(count, &good[0]),
        Err(ImageError::BadChunk)
    );
    assert_eq!(
        machine.image_put(u64::MAX, &good[0]),
        Err(ImageError::BadChunk)
    );
    let long = [&good[0][..], &[0]].concat();
    assert_eq!(machine.image_put(0, &long), Err(ImageError::BadChunk));
    assert_eq!(machine.image_put(0, &[]), Err(ImageError::BadChunk));
    for (index, chunk) in good.iter().enumerate().skip(1) {
        machine.image_put(index as u64, chunk).expect("belongs");
    }
    assert_eq!(
        machine.image_finish(Op::new(1)),
        Err(ImageError::Invalid),
        "one is missing"
    );
    // An image of a machine with another memory is another state.
    let mut other = Fixture::new(16 << 20);
    assert_eq!(install(&mut other, &good, 1), Err(ImageError::Invalid));
}

/// Puts the chunks that changed after `since`, as they are now; returns how many.
fn put_changed(donor: &Fixture, receiver: &mut Fixture, since: u64) -> usize {
    let machine = &donor.machine;
    receiver
        .machine
        .image_begin(machine.image_chunks())
        .expect("fits");
    let mut bytes = vec![0; machine.image_chunk_size()];
    let mut put = 0;
    for chunk in 0..machine.image_chunks() {
        if machine.image_changed_at(chunk) > Op::new(since) {
            let size = machine.image_read(chunk, &mut bytes);
            receiver
                .machine
                .image_put(chunk, &bytes[..size])
                .expect("belongs");
            put += 1;
        }
    }
    put
}

#[test]
fn what_changed_since_an_old_copy_makes_it_a_new_one() {
    for seed in 0..6 {
        let mut donor = busy(seed, 3000);
        let mut receiver = busy(seed, 3000);
        let mut random = Random(seed + 40);
        for round in 0..6 {
            // From a single change to a state that has shrunk to nothing and grown again.
            let since = receiver.op;
            match round {
                0 => run(&mut donor, &mut random, 1),
                1 => run(&mut donor, &mut random, 50),
                2 => {
                    donor.run("flushall");
                }
                _ => run(&mut donor, &mut random, 2000),
            }
            let put = put_changed(&donor, &mut receiver, since);
            if round == 0 {
                assert!(
                    put < donor.machine.image_chunks() as usize / 2,
                    "{put} chunks"
                );
            }
            let at = Op::new(donor.op);
            receiver.machine.image_finish(at).expect("a state");
            (receiver.op, receiver.now) = (donor.op, donor.now);
            assert_identical(&donor.machine, &receiver.machine);
            assert!(receiver.machine.verify());
            // And it tells others the truth about what changed.
            let mut third = busy(seed, 3000);
            put_changed(&receiver, &mut third, 3000);
            third.machine.image_finish(at).expect("a state");
            assert_identical(&donor.machine, &third.machine);
        }
    }
}

#[test]
fn a_copy_made_while_the_donor_goes_on_needs_only_what_changed_meanwhile() {
    for seed in 0..4 {
        let mut donor = busy(seed, 5000);
        let mut receiver = Fixture::new(8 << 20);
        let mut random = Random(seed + 9);
        let mut bytes = vec![0; donor.machine.image_chunk_size()];
        let mut since = 0;
        for _ in 0..3 {
            let began = donor.op;
            let mut chunk = 0;
            while chunk < donor.machine.image_chunks() {
                if donor.machine.image_changed_at(chunk) > Op::new(since) {
                    let size = donor.machine.image_read(chunk, &mut bytes);
                    let machine = &mut receiver.machine;
                    let chunks = donor.machine.image_chunks();
                    machine.image_begin(chunks).expect("fits");
                    machine.image_put(chunk, &bytes[..size]).expect("belongs");
                }
                chunk += 1;
                // The state grows and shrinks under the copy.
                run(&mut donor, &mut random, 7);
                if random.below(400) == 0 {
                    donor.run("flushall");
                }
            }
            since = began;
        }
        put_changed(&donor, &mut receiver, since);
        let at = Op::new(donor.op);
        receiver.machine.image_finish(at).expect("a state");
        assert_identical(&donor.machine, &receiver.machine);
        assert!(receiver.machine.verify());
    }
}

#[test]
fn two_machines_of_one_history_hold_the_same_bytes() {
    let (a, b) = (busy(21, 8000), busy(21, 8000));
    assert_identical(&a.machine, &b.machine);
    assert!(a.machine.verify());
    let c = busy(22, 8000);
    assert_ne!(a.machine.digest(), c.machine.digest());
}

#[test]
fn an_image_is_verified_a_piece_at_a_time_with_the_same_outcome() {
    let donor = busy(50, 6000);
    let chunks = image(&donor.machine);
    for budget in [1, 1000, 64 << 10] {
        let mut receiver = Fixture::new(8 << 20);
        let machine = &mut receiver.machine;
        machine.image_begin(chunks.len() as u64).expect("fits");
        for (index, chunk) in chunks.iter().enumerate() {
            machine.image_put(index as u64, chunk).expect("belongs");
        }
        let mut steps = 0;
        while !machine.image_verify(budget).expect("a state") {
            steps += 1;
        }
        let pieces = machine.image_chunks() as usize * machine.image_chunk_size() / budget;
        assert!(steps >= pieces.min(10), "{steps} steps of {budget} bytes");
        machine.image_finish(Op::new(donor.op)).expect("a state");
        assert_identical(&donor.machine, machine);
    }
}

#[test]
fn a_chunk_that_comes_after_the_proof_began_is_proved_too() {
    let donor = busy(51, 6000);
    let mut chunks = image(&donor.machine);
    let mut receiver = Fixture::new(8 << 20);
    let machine = &mut receiver.machine;
    machine.image_begin(chunks.len() as u64).expect("fits");
    for (index, chunk) in chunks.iter().enumerate() {
        machine.image_put(index as u64, chunk).expect("belongs");
    }
    while !machine.image_verify(100_000).expect("a state") {}
    let last = chunks.len() - 2;
    let value = chunks[last].iter().position(|byte| *byte == 7);
    chunks[last][value.expect("a value")] = 8;
    machine
        .image_put(last as u64, &chunks[last])
        .expect("belongs");
    assert_eq!(
        machine.image_finish(Op::new(donor.op)),
        Err(ImageError::Invalid)
    );
}

/// An old chunk among new ones: each of its bytes is as somebody wrote it.
#[test]
fn a_stale_chunk_among_current_ones_is_no_state() {
    let mut donor = busy(52, 5000);
    let old = image(&donor.machine);
    run(&mut donor, &mut Random(53), 4000);
    let new = image(&donor.machine);
    let mut refused = 0;
    for stale in 0..old.len() {
        if new.get(stale).is_none_or(|chunk| *chunk == old[stale]) {
            continue;
        }
        let mut mixed = new.clone();
        mixed[stale].clone_from(&old[stale]);
        let mut receiver = Fixture::new(8 << 20);
        let outcome = install(&mut receiver, &mixed, donor.op);
        assert_eq!(outcome, Err(ImageError::Invalid), "chunk {stale}");
        refused += 1;
    }
    assert!(refused > 10, "{refused} stale chunks");
}

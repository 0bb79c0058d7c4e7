//! A table that was taken over goes on like the one it was taken from, and nothing that is no table
//! gets in or does harm.

extern crate std;
use std::vec::Vec;

use vsr_types::{Checksum, ClientId, Epoch, Op, RequestNumber};

use super::*;
use crate::random::Random;
use crate::sessions::{Executed, Verdict};

const SESSIONS: usize = 1000;
const REPLY_BYTES: usize = 700 * BLOCK_SIZE;

fn table() -> Sessions {
    Sessions::new(SESSIONS, REPLY_BYTES)
}

/// Registers and requests of more clients than fit, with replies of all sizes.
fn run(sessions: &mut Sessions, random: &mut Random, ops: Range<u64>) {
    let mut reply = std::vec![0; 5000];
    for op in ops {
        let client = ClientId::new(u128::from(random.next() % 1500) + 1);
        let size = match random.next() % 20 {
            0 => random.next() as usize % 5000,
            _ => random.next() as usize % 300,
        };
        reply[..size].fill(op as u8);
        let (held, request) = match sessions.slot_of(client) {
            Some(slot) => {
                let (last, _) = sessions.reply(slot, &mut std::vec![0; 5000]).unwrap();
                let last = last.request;
                let (session, next) = (sessions.session_number(slot).unwrap(), last.next());
                let verdict = sessions.verdict(client, session, next, Checksum::new(0));
                let Verdict::Next(held) = verdict else {
                    panic!("the next request of a session: {verdict:?}");
                };
                (held, next)
            }
            None => (
                sessions.open(client, Epoch::ZERO, Op::new(op)),
                RequestNumber::ZERO,
            ),
        };
        let executed = Executed {
            request,
            request_checksum: Checksum::new(op as u32),
            op: Op::new(op),
            index: 0,
        };
        sessions.store(&held, executed, &reply[..size]);
    }
}

fn read(sessions: &Sessions) -> Vec<Vec<u8>> {
    let chunk = |chunk| {
        let mut bytes = std::vec![0; CHUNK_SIZE];
        let size = sessions.image_read(chunk, &mut bytes);
        bytes.truncate(size);
        bytes
    };
    (0..sessions.image_chunks()).map(chunk).collect()
}

fn install(sessions: &mut Sessions, chunks: &[Vec<u8>], at: u64) -> Result<(), ImageError> {
    let mut image = SessionsImage::new(SESSIONS, REPLY_BYTES);
    sessions.image_begin(&mut image);
    for (index, chunk) in chunks.iter().enumerate().rev() {
        sessions.image_put(&mut image, index as u64, chunk)?;
    }
    sessions.image_finish(
        &mut image,
        Op::new(at),
        &mut std::vec![0; limits::REPLY_SIZE_MAX],
    )
}

#[test]
fn a_table_that_was_taken_over_goes_on_like_its_donor() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let (mut donor, mut receiver) = (table(), table());
        run(&mut donor, &mut random, 1..3000);
        // The receiver has a past of its own.
        run(
            &mut receiver,
            &mut Random::new(seed + 50),
            1..500 * seed + 1,
        );
        install(&mut receiver, &read(&donor), 2999).expect("a sound table");
        assert_eq!(receiver.digest(), donor.digest());
        assert!(
            receiver.reports().eq(donor.reports()),
            "in the order of eviction"
        );
        assert_eq!(receiver.digest(), receiver.digest_recomputed());
        let mut again = random.clone();
        run(&mut donor, &mut random, 3000..6000);
        run(&mut receiver, &mut again, 3000..6000);
        assert_eq!(
            receiver.digest(),
            donor.digest(),
            "slots, blocks and evictions are the same"
        );
        assert_eq!(read(&receiver), read(&donor), "byte for byte");
    }
}

/// Puts what changed after `since`, as it is now; returns how many chunks.
fn put_changed(
    donor: &Sessions,
    receiver: &mut Sessions,
    image: &mut SessionsImage,
    since: u64,
) -> usize {
    let mut bytes = std::vec![0; CHUNK_SIZE];
    let mut put = 0;
    for chunk in 0..donor.image_chunks() {
        if donor.image_changed_at(chunk) > Op::new(since) {
            let size = donor.image_read(chunk, &mut bytes);
            receiver
                .image_put(image, chunk, &bytes[..size])
                .expect("belongs");
            put += 1;
        }
    }
    put
}

#[test]
fn what_changed_since_an_old_copy_makes_it_a_new_one() {
    let buffer = &mut std::vec![0; limits::REPLY_SIZE_MAX];
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let (mut donor, mut receiver) = (table(), table());
        let mut image = SessionsImage::new(SESSIONS, REPLY_BYTES);
        let mut op = 1;
        for steps in [2000, 1, 1, 3, 30, 1000, 1] {
            run(&mut donor, &mut random, op..op + steps);
            receiver.image_begin(&mut image);
            let put = put_changed(&donor, &mut receiver, &mut image, op - 1);
            assert!(
                steps > 1 || put < donor.image_chunks() as usize,
                "{put} chunks"
            );
            op += steps;
            receiver
                .image_finish(&mut image, Op::new(op - 1), buffer)
                .expect("a table");
            assert_eq!(receiver.digest(), donor.digest());
            assert_eq!(read(&receiver), read(&donor), "byte for byte");
        }
    }
}

#[test]
fn an_empty_and_a_full_table_can_be_taken_over() {
    let mut receiver = table();
    run(&mut receiver, &mut Random::new(1), 1..2000);
    install(&mut receiver, &read(&table()), 2000).expect("empty is sound");
    assert_eq!((receiver.count(), receiver.digest()), (0, table().digest()));
    let mut donor = table();
    let mut op = 0;
    while donor.count() < SESSIONS {
        op += 1;
        let held = donor.open(ClientId::new(u128::from(op)), Epoch::ZERO, Op::new(op));
        let executed = Executed {
            request: RequestNumber::ZERO,
            request_checksum: Checksum::new(0),
            op: Op::new(op),
            index: 0,
        };
        donor.store(&held, executed, &[]);
    }
    install(&mut receiver, &read(&donor), op).expect("full is sound");
    assert_eq!(receiver.digest(), donor.digest());
}

#[test]
fn what_is_no_table_is_refused_without_a_panic_and_leaves_an_empty_one() {
    let mut donor = table();
    run(&mut donor, &mut Random::new(9), 1..3000);
    let good = read(&donor);
    let mut random = Random::new(77);
    let mut receiver = table();
    let mut refused = 0;
    for case in 0..400 {
        let mut chunks = good.clone();
        let chunk = match case % 4 {
            0 => 0,
            1 => 1 + random.next() as usize % 2,
            _ => random.next() as usize % chunks.len(),
        };
        let at = random.next() as usize % chunks[chunk].len();
        match random.next() % 3 {
            0 => chunks[chunk][at] ^= 1 << (random.next() % 8),
            1 => chunks[chunk][at] = random.next() as u8,
            _ => {
                // A link to somewhere else that exists.
                let at = at / 4 * 4;
                let link = (random.next() % 700) as u32;
                let size = chunks[chunk].len();
                chunks[chunk][at..(at + 4).min(size)]
                    .copy_from_slice(&link.to_le_bytes()[..4.min(size - at)]);
            }
        }
        match install(&mut receiver, &chunks, 2999) {
            // What lies in a free block or slot, or the order in which they are handed out, is no
            // matter of this check; the digest of what is in use is compared by the caller.
            Ok(()) => assert_eq!(receiver.digest(), receiver.digest_recomputed()),
            Err(_) => {
                refused += 1;
                receiver.reset();
                assert_eq!((receiver.count(), receiver.digest()), (0, table().digest()));
                assert_eq!(receiver.reports().count(), 0);
            }
        }
        run(&mut receiver, &mut Random::new(case), 3000..3050);
    }
    assert!(refused > 100, "{refused}");
    install(&mut receiver, &good, 2999).expect("still able to take a good one");
    assert_eq!(receiver.digest(), donor.digest());
    assert_eq!(
        install(&mut receiver, &good, 2000),
        Err(ImageError::Invalid),
        "from the future"
    );
}

#[test]
fn chunks_that_do_not_belong_are_refused() {
    let mut receiver = table();
    let good = read(&receiver);
    let mut image = SessionsImage::new(SESSIONS, REPLY_BYTES);
    receiver.image_begin(&mut image);
    for (index, chunk) in good.iter().enumerate() {
        let short = receiver.image_put(&mut image, index as u64, &chunk[1..]);
        assert_eq!(short, Err(ImageError::BadChunk), "chunk {index}");
    }
    for beyond in [good.len() as u64, u64::MAX] {
        let put = receiver.image_put(&mut image, beyond, &good[0]);
        assert_eq!(put, Err(ImageError::BadChunk));
    }
    let other = Sessions::new(SESSIONS + 1, REPLY_BYTES);
    let put = receiver.image_put(&mut image, 0, &read(&other)[0]);
    assert_eq!(put, Err(ImageError::BadChunk), "a table of another size");
}

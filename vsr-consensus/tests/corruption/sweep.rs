//! Every bit of every header, every byte of bodies, sessions, replies and state, one at a time.

use std::time::Instant;

use super::support::Cluster;
use super::{cluster, count, heal, holds};
use vsr_consensus::{Event, Place, StateMachine as _};
use vsr_types::Op;

/// The replica whose memory is bad.
const BAD: u8 = 1;

/// A cluster in which a few things have happened: sessions, replies of several sizes, an entry that is
/// not executed everywhere yet.
fn busy() -> Cluster {
    let mut cluster = cluster();
    for client in 0..3 {
        cluster.register(client);
        cluster.ask(client, "add 7");
    }
    cluster.ask(0, "big 600");
    cluster.ask(1, "some text that is echoed");
    cluster.pass(std::time::Duration::from_millis(100));
    heal(&mut cluster);
    cluster
}

/// Flips one bit after the other in `place`, every `stride`-th, and sees that each is repaired and that
/// nothing else ever changes. Returns how many bits that were and how many of them were noticed.
fn sweep(cluster: &mut Cluster, place: Place, bits: usize, stride: usize) -> (usize, usize) {
    let bad = usize::from(BAD);
    let sound = holds(&cluster.replicas[bad]);
    let others = [0, 2].map(|r: usize| holds(&cluster.replicas[r]));
    let noticed = |cluster: &Cluster| {
        [
            Event::CopiesMended,
            Event::EntriesRepaired,
            Event::StatesRepaired,
        ]
        .map(|event| count(cluster, BAD, event))
        .iter()
        .sum::<u64>()
    };
    let (mut flipped, mut found) = (0, 0);
    for bit in (0..bits).step_by(stride) {
        let bit = if stride == 8 { bit + bit / 8 % 8 } else { bit };
        let before = noticed(cluster);
        if !cluster.replicas[bad].flip(place, bit) {
            break;
        }
        flipped += 1;
        heal(cluster);
        found += usize::from(noticed(cluster) > before);
        let now = holds(&cluster.replicas[bad]);
        for (n, s) in now.iter().zip(&sound) {
            assert_eq!(
                String::from_utf8_lossy(n),
                String::from_utf8_lossy(s),
                "{place:?} bit {bit}"
            );
        }
        for (r, held) in [0, 2].into_iter().zip(&others) {
            assert!(
                holds(&cluster.replicas[r]) == *held,
                "{place:?} bit {bit} spread"
            );
        }
    }
    (flipped, found)
}

#[test]
fn every_bit_of_the_journals_headers_and_notes_is_mended() {
    let (began, mut cluster) = (Instant::now(), busy());
    let mut all = 0;
    for op in [1, cluster.op(BAD)] {
        for copy in 0..2 {
            let (flipped, found) = sweep(&mut cluster, Place::Slot(Op::new(op), copy), 1 << 20, 1);
            assert_eq!(flipped, found, "every bit of op {op}, copy {copy}");
            all += flipped;
        }
    }
    println!("{all} bits of slots: {:?}", began.elapsed());
}

#[test]
fn every_bit_of_the_headers_that_a_view_began_with_is_mended() {
    let mut cluster = busy();
    cluster.stopped[0] = true;
    cluster.pass(std::time::Duration::from_millis(500));
    cluster.stopped[0] = false;
    cluster.pass(std::time::Duration::from_millis(500));
    assert!(cluster.replicas[1].report().view.raw() > 0);
    heal(&mut cluster);
    let mut all = 0;
    for index in 0..2 {
        // The route is no part of what is mended here: it has a check of its own, and nobody follows it.
        let (flipped, found) = sweep(&mut cluster, Place::Inherited(index), 1 << 20, 3);
        assert!(found > flipped * 9 / 10, "{found} of {flipped}");
        all += flipped;
    }
    assert!(all > 600, "{all}");
}

#[test]
fn every_byte_of_the_journals_bodies_is_fetched_again() {
    let (began, mut cluster) = (Instant::now(), busy());
    let mut all = 0;
    for op in 1..=cluster.op(BAD) {
        let (flipped, found) = sweep(&mut cluster, Place::Body(Op::new(op)), 1 << 20, 8);
        assert_eq!(flipped, found, "every byte of op {op}");
        all += flipped;
    }
    assert!(all > 500, "{all}");
    println!("{all} bytes of bodies: {:?}", began.elapsed());
}

pub(super) fn one_byte_of_a_body_is_fetched_again() {
    let mut cluster = busy();
    assert_eq!(sweep(&mut cluster, Place::Body(Op::new(2)), 8, 8), (1, 1));
}

/// Both copies of a slot: the header comes from a peer, and the chain says that it is the right one.
#[test]
fn a_slot_that_is_lost_in_both_copies_is_fetched_by_what_the_chain_says() {
    let mut cluster = busy();
    let bad = usize::from(BAD);
    let sound = holds(&cluster.replicas[bad]);
    let head = cluster.op(BAD);
    for op in 1..=head {
        for bit in [0, 100, 500, 1000, 1030, 1100, 1215] {
            for copy in 0..2 {
                assert!(cluster.replicas[bad].flip(Place::Slot(Op::new(op), copy), bit));
            }
            heal(&mut cluster);
            assert!(holds(&cluster.replicas[bad]) == sound, "op {op} bit {bit}");
        }
    }
    // Several side by side, and the body of another one.
    for op in [2, 3, 4, head] {
        for copy in 0..2 {
            assert!(cluster.replicas[bad].flip(Place::Slot(Op::new(op), copy), 77));
        }
    }
    heal(&mut cluster);
    assert!(holds(&cluster.replicas[bad]) == sound);
}

#[test]
fn every_bit_of_sessions_and_their_links_is_repaired_from_a_peer() {
    let (began, mut cluster) = (Instant::now(), busy());
    // Three entries of 72 bytes are in use. The table has room for eight.
    let (flipped, found) = sweep(&mut cluster, Place::Sessions, 3 * 72 * 8, 5);
    assert_eq!(flipped, found, "entries");
    let links = 8 * 72 * 8;
    for bit in (links..links + 2 * 8 * 64).step_by(37) {
        let before = count(&cluster, BAD, Event::StatesRepaired);
        assert!(cluster.replicas[usize::from(BAD)].flip(Place::Sessions, bit));
        heal(&mut cluster);
        let repaired = count(&cluster, BAD, Event::StatesRepaired) - before;
        assert_eq!(repaired, 1, "link, bit {bit}");
        cluster.assert_equal();
    }
    println!("{flipped} bits of sessions: {:?}", began.elapsed());
}

#[test]
fn every_byte_of_cached_replies_is_repaired_from_a_peer() {
    let (began, mut cluster) = (Instant::now(), busy());
    // What is in no reply is nobody's and is not looked at.
    let (flipped, found) = sweep(&mut cluster, Place::Replies, 7 * 256 * 8, 64 + 1);
    assert!(found > 70 && found < flipped, "{found} of {flipped}");
    // The answers that were missed are the ones that were given.
    for client in 0..3 {
        let told = cluster.client(client).text();
        cluster.retry_at(client, 0);
        cluster.run();
        assert_eq!(cluster.client(client).text(), told);
    }
    println!("{flipped} bytes of replies: {:?}", began.elapsed());
}

#[test]
fn every_bit_of_the_machines_state_is_repaired_from_a_peer() {
    let (began, mut cluster) = (Instant::now(), busy());
    let bad = usize::from(BAD);
    let sound = holds(&cluster.replicas[bad]);
    for bit in 0..3 * 64 {
        let before = count(&cluster, BAD, Event::StatesRepaired);
        cluster.replicas[bad].machine_mut().damage(bit);
        heal(&mut cluster);
        assert_eq!(
            count(&cluster, BAD, Event::StatesRepaired),
            before + 1,
            "bit {bit}"
        );
        assert!(holds(&cluster.replicas[bad]) == sound, "bit {bit}");
        assert_eq!(cluster.replicas[bad].machine().damaged(), None);
    }
    println!("192 bits of state: {:?}", began.elapsed());
}

//! The session table against a model that is too simple to be wrong, and against flipped bits.

extern crate std;

use std::vec;
use std::vec::Vec;

use vsr_types::{Checksum, ClientId, Epoch, Op, RequestNumber, SessionNumber};

use super::replies::BLOCK_SIZE;
use super::{Executed, Held, NONE, SessionReport, SessionSlot, Sessions, Verdict};
use crate::random::Random;

/// One session as the model knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    client: ClientId,
    session: SessionNumber,
    request: RequestNumber,
    checksum: Checksum,
    op: Op,
    reply: Vec<u8>,
}

/// Sessions in the order of their last execution, and how much room their replies take.
struct Model {
    known: Vec<Known>,
    sessions: usize,
    blocks: usize,
}

impl Model {
    fn find(&self, client: ClientId) -> Option<usize> {
        self.known.iter().position(|known| known.client == client)
    }

    fn blocks_used(&self) -> usize {
        let blocks = |known: &Known| known.reply.len().div_ceil(BLOCK_SIZE);
        self.known.iter().map(blocks).sum()
    }

    fn open(&mut self, client: ClientId, op: Op) {
        if self.known.len() == self.sessions {
            self.known.remove(0);
        }
        self.known.push(Known {
            client,
            session: SessionNumber::new(op.raw()),
            request: RequestNumber::ZERO,
            checksum: Checksum::default(),
            op: Op::ZERO,
            reply: Vec::new(),
        });
    }

    fn store(&mut self, client: ClientId, executed: Executed, reply: &[u8]) {
        let place = self.find(client).expect("an open session");
        let known = self.known.remove(place);
        while self.blocks_used() + reply.len().div_ceil(BLOCK_SIZE) > self.blocks {
            self.known.remove(0);
        }
        self.known.push(Known {
            request: executed.request,
            checksum: executed.request_checksum,
            op: executed.op,
            reply: reply.to_vec(),
            ..known
        });
    }
}

fn held(sessions: &Sessions, slot: SessionSlot) -> Held {
    Held {
        slot: slot.0,
        entry: *sessions.entry(slot.0).expect("undamaged"),
    }
}

fn executed(request: u64, op: u64) -> Executed {
    Executed {
        request: RequestNumber::new(request),
        request_checksum: Checksum::new(op as u32 * 31 + 1),
        op: Op::new(op),
        index: op as u32 % 7,
    }
}

fn check(sessions: &Sessions, model: &Model, clients: &[ClientId]) {
    assert_eq!(sessions.digest(), sessions.digest_recomputed());
    assert_eq!(sessions.count(), model.known.len());
    let reports: Vec<SessionReport> = sessions.reports().collect();
    let expected: Vec<SessionReport> = model
        .known
        .iter()
        .map(|known| SessionReport {
            client: known.client,
            session: known.session,
            request: known.request,
            op: known.op,
            reply_size: known.reply.len() as u32,
        })
        .collect();
    assert_eq!(
        reports, expected,
        "same sessions, in the order in which they would be evicted"
    );
    let mut buffer = vec![0; 64 * BLOCK_SIZE];
    for &client in clients {
        let Some(place) = model.find(client) else {
            assert_eq!(
                sessions.slot_of(client),
                None,
                "an evicted client is unknown"
            );
            continue;
        };
        let known = &model.known[place];
        let slot = sessions.slot_of(client).expect("an open session");
        let verdict = |request, checksum| {
            sessions.verdict(client, known.session, RequestNumber::new(request), checksum)
        };
        let last = known.request.raw();
        assert_eq!(verdict(last, known.checksum), Verdict::Repeated(slot));
        assert_eq!(verdict(last, Checksum::new(0)), Verdict::Reused);
        let next = Verdict::Next(held(sessions, slot));
        assert_eq!(verdict(last + 1, Checksum::new(0)), next);
        assert_eq!(verdict(last + 2, Checksum::new(0)), Verdict::Ahead);
        if last > 0 {
            assert_eq!(verdict(last - 1, Checksum::new(0)), Verdict::Old);
        }
        let (executed, reply) = sessions.reply(slot, &mut buffer).expect("undamaged");
        assert_eq!((executed.request, executed.op), (known.request, known.op));
        assert_eq!(reply, &known.reply[..]);
    }
}

/// Clients whose places in the index crowd round its end, so that they push each other about.
fn crowded(sessions: &Sessions, count: usize) -> Vec<ClientId> {
    let size = sessions.index.len();
    (1..)
        .map(ClientId::new)
        .filter(|&client| (sessions.home(client) + 2) % size < 3)
        .take(count)
        .collect()
}

fn random_story(seed: u64, capacity: usize, blocks: usize, steps: u64) {
    let mut random = Random::new(seed);
    let mut below = |bound: u64| random.next() % bound;
    let mut sessions = Sessions::new(capacity, blocks * BLOCK_SIZE);
    let mut twin = Sessions::new(capacity, blocks * BLOCK_SIZE);
    let mut model = Model {
        known: Vec::new(),
        sessions: capacity,
        blocks,
    };
    let clients = if seed.is_multiple_of(2) {
        crowded(&sessions, 3 * capacity)
    } else {
        (0..3 * capacity as u128)
            .map(|i| ClientId::new(i * 0x1_0000_0001 + 5))
            .collect()
    };
    for op in 1..=steps {
        let client = clients[below(clients.len() as u64) as usize];
        let size = match below(4) {
            0 => 0,
            1 => below(BLOCK_SIZE as u64) as usize,
            2 => BLOCK_SIZE * (1 + below(2) as usize),
            _ => below((blocks * BLOCK_SIZE) as u64 / 2) as usize,
        };
        let mut reply = vec![op as u8; size];
        let request = match model.find(client) {
            Some(place) => model.known[place].request.raw() + 1,
            None => {
                reply.clear();
                for table in [&mut sessions, &mut twin] {
                    table.open(client, Epoch::ZERO, Op::new(op));
                }
                model.open(client, Op::new(op));
                0
            }
        };
        for table in [&mut sessions, &mut twin] {
            let slot = table.slot_of(client).expect("an open session");
            table.store(&held(table, slot), executed(request, op), &reply);
        }
        model.store(client, executed(request, op), &reply);
        check(&sessions, &model, &clients);
        assert_eq!(
            sessions.digest(),
            twin.digest(),
            "same operations, same digest"
        );
    }
}

#[test]
fn the_table_does_what_a_list_would_do() {
    for seed in 0..24 {
        random_story(seed, 1 + seed as usize % 9, 8, 300);
    }
}

#[test]
fn replies_that_crowd_the_pool_evict_the_oldest_sessions() {
    for seed in 100..112 {
        random_story(seed, 16, 6, 300);
    }
}

#[test]
fn the_digest_tells_tables_apart() {
    let mut tables = Vec::new();
    for (client, op, reply) in [
        (1, 1, "a"),
        (2, 1, "a"),
        (1, 2, "a"),
        (1, 1, "b"),
        (1, 1, ""),
    ] {
        let mut sessions = Sessions::new(4, 4 * BLOCK_SIZE);
        let held = sessions.open(ClientId::new(client), Epoch::ZERO, Op::new(op));
        sessions.store(&held, executed(0, op), reply.as_bytes());
        assert!(
            !tables.contains(&sessions.digest()),
            "{client} {op} {reply}"
        );
        tables.push(sessions.digest());
    }
}

#[test]
fn what_is_in_flight_is_forgotten_when_its_op_is_executed_or_the_session_evicted() {
    let mut sessions = Sessions::new(1, 4 * BLOCK_SIZE);
    let (first, second) = (ClientId::new(1), ClientId::new(2));
    let held = sessions.open(first, Epoch::ZERO, Op::new(1));
    sessions.store(&held, executed(0, 1), b"");
    let slot = held.slot();
    let request = RequestNumber::new(1);
    sessions.set_in_flight(slot, request, Op::new(2));
    assert!(sessions.is_in_flight(slot, request, Op::new(1)));
    assert!(!sessions.is_in_flight(slot, RequestNumber::new(2), Op::new(1)));
    assert!(
        !sessions.is_in_flight(slot, request, Op::new(2)),
        "op 2 went by without it"
    );
    let slot = sessions.open(second, Epoch::ZERO, Op::new(3)).slot();
    assert!(
        !sessions.is_in_flight(slot, request, Op::new(1)),
        "another's session now"
    );
}

/// A table with three sessions, each with a reply of two blocks and a bit.
fn three() -> (Sessions, Vec<ClientId>) {
    let mut sessions = Sessions::new(4, 16 * BLOCK_SIZE);
    let clients = crowded(&sessions, 3);
    for (i, &client) in clients.iter().enumerate() {
        let op = 1 + i as u64;
        let held = sessions.open(client, Epoch::ZERO, Op::new(op));
        sessions.store(&held, executed(0, op), &[op as u8; 2 * BLOCK_SIZE + 1]);
    }
    (sessions, clients)
}

/// Whether asking after every client's last request finds that something is wrong, and whether the
/// scrubber does without anybody asking.
fn is_found(sessions: &Sessions, clients: &[ClientId]) -> (bool, bool) {
    let mut buffer = vec![0; 4 * BLOCK_SIZE];
    let by_scrubber = is_found_by_scrubber(sessions, &mut buffer);
    for (i, &client) in clients.iter().enumerate() {
        let session = SessionNumber::new(1 + i as u64);
        let checksum = executed(0, session.raw()).request_checksum;
        let verdict = sessions.verdict(client, session, RequestNumber::ZERO, checksum);
        let told = match verdict {
            Verdict::Repeated(slot) => sessions.reply(slot, &mut buffer).map(|(_, reply)| reply),
            Verdict::Damaged => None,
            _ => panic!("told {verdict:?}, which is not true and was not found out"),
        };
        let expected = [session.raw() as u8; 2 * BLOCK_SIZE + 1];
        assert!(told.is_none_or(|told| told == expected), "wrong bytes");
        assert_eq!(told.is_none(), sessions.is_damage_met());
        if sessions.take_damage().is_some() {
            return (true, by_scrubber);
        }
    }
    (false, by_scrubber)
}

fn is_found_by_scrubber(sessions: &Sessions, buffer: &mut [u8]) -> bool {
    let mut next = Some(0);
    while let Some(from) = next {
        let seen = sessions.scrub(from, 100, buffer);
        if let Some(chunks) = seen.damaged {
            assert!(chunks.start < chunks.end && chunks.end <= sessions.image_chunks());
            return true;
        }
        next = seen.next;
    }
    false
}

#[test]
fn every_flipped_bit_of_an_entry_is_found_before_anybody_is_told() {
    let (sessions, clients) = three();
    assert_eq!(is_found(&sessions, &clients), (false, false), "undamaged");
    for slot in 0..3 {
        for bit in 0..size_of::<super::Entry>() * 8 {
            let (mut sessions, clients) = three();
            bytemuck::bytes_of_mut(&mut sessions.entries[slot])[bit / 8] ^= 1 << (bit % 8);
            let found = is_found(&sessions, &clients);
            assert_eq!(found, (true, true), "slot {slot}, bit {bit}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_reply_is_found_before_anybody_is_told() {
    let (sessions, _) = three();
    for byte in 0..sessions.replies.memory_in_use() {
        let (mut sessions, clients) = three();
        sessions.replies.flip(byte, byte % 8);
        // The third block of each reply is used for one byte only.
        let is_used = byte % (3 * BLOCK_SIZE) <= 2 * BLOCK_SIZE;
        let found = is_found(&sessions, &clients);
        assert_eq!(found, (is_used, is_used), "byte {byte}");
    }
}

#[test]
fn every_flipped_bit_of_the_index_is_found_before_anybody_is_told() {
    let (sessions, _) = three();
    for place in 0..sessions.index.len() {
        for bit in 0..32 {
            let (mut sessions, clients) = three();
            let was_used = sessions.index[place] != NONE;
            sessions.index[place] ^= 1 << bit;
            let (by_use, by_scrubber) = is_found(&sessions, &clients);
            assert!(by_use || !was_used, "place {place}, bit {bit}");
            assert!(by_scrubber, "place {place}, bit {bit}");
        }
    }
}

/// A session that is opened where lists are damaged leaves a note before anybody is answered, and does
/// not panic.
#[test]
fn every_flipped_bit_of_a_link_is_found_by_the_scrubber_and_harms_nobody_who_goes_on() {
    let (sessions, _) = three();
    let links = [
        sessions.older.len(),
        sessions.newer.len(),
        sessions.replies.next.len(),
    ];
    let mut met = 0;
    for (list, count) in links.into_iter().enumerate() {
        for place in 0..count {
            for bit in 0..64 {
                let (mut sessions, clients) = three();
                let list = match list {
                    0 => &mut sessions.older,
                    1 => &mut sessions.newer,
                    _ => &mut sessions.replies.next,
                };
                bytemuck::bytes_of_mut(&mut list[place])[bit / 8] ^= 1 << (bit % 8);
                let mut buffer = vec![0; 4 * BLOCK_SIZE];
                assert!(
                    is_found_by_scrubber(&sessions, &mut buffer),
                    "{place} {bit}"
                );
                for op in 4..12 {
                    let client = ClientId::new(1000 + u128::from(op));
                    let held = sessions.open(client, Epoch::ZERO, Op::new(op));
                    sessions.store(&held, executed(0, op), &[op as u8; 3 * BLOCK_SIZE]);
                    if sessions.take_damage().is_some() {
                        met += 1;
                        break;
                    }
                }
                let _ = is_found(&sessions, &clients[..0]);
            }
        }
    }
    assert!(met > 500, "the lists were used: {met}");
}

//! What the journal keeps, what it lets go, and that it never shows anything else.

use alloc::vec::Vec;

use bytemuck::Zeroable;
use vsr_types::{HEADER_SIZE, View};

use super::*;
use crate::{LINE_SIZE, SLOT_BITS};

mod damage;
mod model;

pub(super) const NOTHING_PROTECTED: Op = Op::new(u64::MAX);

/// The prepare of `op`, with a body of `size` bytes that no other op, version or place shares.
pub(super) fn entry(op: u64, version: u64, size: usize) -> (Header, Vec<u8>) {
    let seed = op.wrapping_mul(31).wrapping_add(version.wrapping_mul(7));
    let body: Vec<u8> = (0..size as u64)
        .map(|i| (seed + i * (op | 1)) as u8)
        .collect();
    let mut header = Header::new(Prepare {
        op: Op::new(op),
        ..Prepare::zeroed()
    });
    header.set_view(View::new(version));
    header.seal(&body);
    (header, body)
}

/// A journal with ops 1 to `ops`, each with a body of `size` bytes.
pub(super) fn filled(slots: usize, bytes: usize, ops: u64, size: usize) -> Journal {
    let mut journal = Journal::new(slots, bytes);
    for op in 1..=ops {
        append(&mut journal, op, 0, size);
    }
    journal
}

pub(super) fn append(journal: &mut Journal, op: u64, version: u64, size: usize) {
    let (header, body) = entry(op, version, size);
    journal.append(&header, &body, NOTHING_PROTECTED);
}

pub(super) fn append_header(
    journal: &mut Journal,
    op: u64,
    version: u64,
    size: usize,
) -> SlotState {
    let (header, _) = entry(op, version, size);
    journal.append_header(&header, NOTHING_PROTECTED)
}

#[test]
fn a_new_journal_is_empty_and_as_large_as_planned() {
    let journal = Journal::new(8, 1000);
    assert_eq!(
        (journal.head(), journal.tail(), journal.oldest()),
        (Op::ZERO, Op::new(1), Op::new(1))
    );
    assert_eq!(
        (
            journal.slots(),
            journal.capacity_bytes(),
            journal.bytes_used()
        ),
        (8, 1024, 0)
    );
    assert_eq!(Journal::memory(8, 1000), 2 * 8 * (HEADER_SIZE + 24) + 1024);
    for op in [0, 1, 8, u64::MAX] {
        assert_eq!(journal.state(Op::new(op)), SlotState::Empty);
        assert_eq!(journal.read(Op::new(op)), Err(ReadError::Empty));
        assert_eq!(journal.header(Op::new(op)), None);
    }
}

#[test]
fn after_a_wrap_of_the_slots_an_overwritten_op_is_empty_and_not_another_op() {
    let journal = filled(4, 1 << 16, 6, 100);
    assert_eq!(
        (journal.oldest(), journal.tail(), journal.head()),
        (Op::new(3), Op::new(3), Op::new(6))
    );
    // Op 1 shares its slot with op 5, op 2 with op 6, op 10 will share it with op 6.
    for gone in [0, 1, 2, 7, 10] {
        assert_eq!(
            journal.read(Op::new(gone)),
            Err(ReadError::Empty),
            "op {gone}"
        );
        assert_eq!(journal.header(Op::new(gone)), None);
    }
    for op in 3..=6 {
        let (header, body) = entry(op, 0, 100);
        assert_eq!(journal.read(Op::new(op)), Ok((&header, &body[..])));
    }
}

#[test]
fn after_a_wrap_of_the_bytes_an_op_keeps_its_header_and_shows_no_bytes() {
    // Room for four bodies of two lines.
    let journal = filled(16, 8 * LINE_SIZE, 6, 100);
    assert_eq!((journal.oldest(), journal.tail()), (Op::new(1), Op::new(3)));
    for op in 1..=2 {
        assert_eq!(journal.state(Op::new(op)), SlotState::Overwritten);
        assert_eq!(journal.read(Op::new(op)), Err(ReadError::Overwritten));
        assert_eq!(
            journal.read_unverified_body(Op::new(op)),
            Err(ReadError::Overwritten)
        );
        assert_eq!(journal.header(Op::new(op)), Some(&entry(op, 0, 100).0));
    }
    assert_eq!(journal.bytes_used(), 8 * LINE_SIZE);
}

#[test]
fn a_slot_that_holds_another_op_is_faulty_never_that_op() {
    // Not by a wrap (the bounds exclude that) but by a misdirected write: of the slot, or only of
    // the place.
    let mut displaced = filled(8, 1 << 12, 4, 10);
    for copy in 0..2 {
        displaced.places[copy][3] = displaced.places[copy][2];
    }
    let unverified = displaced.read_unverified_body(Op::new(3));
    assert_eq!(unverified, Err(ReadError::Faulty));
    let mut journal = filled(8, 1 << 12, 4, 10);
    for copy in 0..2 {
        journal.headers[copy][3] = journal.headers[copy][2];
        journal.places[copy][3] = journal.places[copy][2];
    }
    assert_eq!(journal.header(Op::new(3)), None);
    assert_eq!(journal.state(Op::new(3)), SlotState::Faulty);
    assert_eq!(journal.read(Op::new(3)), Err(ReadError::Faulty));
}

#[test]
fn there_is_room_only_over_ops_below_the_protected_one() {
    // Slots decide: four of them, all taken.
    let journal = filled(4, 1 << 16, 4, 10);
    assert!(!journal.room(10, Op::new(1)), "op 5 takes the slot of op 1");
    assert!(journal.room(10, Op::new(2)));
    // Bytes decide: four bodies of one line, all taken; a body of two lines takes two of them.
    let journal = filled(16, 4 * LINE_SIZE, 4, LINE_SIZE);
    assert!(!journal.room(1, Op::new(1)));
    assert!(journal.room(1, Op::new(2)));
    assert!(!journal.room(LINE_SIZE + 1, Op::new(2)));
    assert!(journal.room(LINE_SIZE + 1, Op::new(3)));
    assert!(
        !journal.room(0, Op::new(1)),
        "an empty body takes a line too"
    );
    assert!(
        !journal.room(4 * LINE_SIZE + 1, NOTHING_PROTECTED),
        "more than the ring"
    );
    assert!(journal.room(4 * LINE_SIZE, NOTHING_PROTECTED));
}

#[test]
#[should_panic(expected = "never overwritten (R8.1)")]
fn appending_over_the_slot_of_a_protected_op_is_our_own_bug() {
    let mut journal = filled(4, 1 << 16, 4, 10);
    let (header, body) = entry(5, 0, 10);
    journal.append(&header, &body, Op::new(1));
}

#[test]
#[should_panic(expected = "never overwritten (R8.1)")]
fn reserving_over_the_body_of_a_protected_op_is_our_own_bug() {
    let mut journal = filled(16, 4 * LINE_SIZE, 4, LINE_SIZE);
    journal.append_header(&entry(5, 0, 2 * LINE_SIZE).0, Op::new(2));
}

#[test]
#[should_panic(expected = "the log has no gaps")]
fn a_gap_is_our_own_bug() {
    append(&mut filled(8, 1 << 12, 3, 10), 5, 0, 10);
}

#[test]
#[should_panic(expected = "a body has the size its header says")]
fn another_body_size_is_our_own_bug() {
    let (header, body) = entry(1, 0, 10);
    Journal::new(4, 1 << 12).append(&header, &body[..9], Op::new(1));
}

#[test]
#[should_panic(expected = "the log holds prepares only")]
fn another_message_is_our_own_bug() {
    let header = Header::new(vsr_types::message::PrepareOk::zeroed());
    Journal::new(4, 1 << 12).append(&header, &[], Op::new(1));
}

#[test]
fn a_missing_body_is_taken_by_identity_only() {
    let mut journal = filled(8, 1 << 12, 2, 10);
    assert_eq!(append_header(&mut journal, 3, 0, 50), SlotState::Missing);
    let (header, body) = entry(3, 0, 50);
    let (other, other_body) = entry(3, 1, 50);
    let op = Op::new(3);
    assert_eq!(journal.read(op), Err(ReadError::Missing));
    assert_eq!(journal.read_unverified_body(op), Err(ReadError::Missing));
    assert_eq!(
        journal.header(op),
        Some(&header),
        "the header is known all the same"
    );

    assert_eq!(
        journal.put_body(op, &other.identity(), &other_body),
        Err(PutError::Identity)
    );
    assert_eq!(
        journal.put_body(op, &header.identity(), &other_body),
        Err(PutError::Body)
    );
    assert_eq!(
        journal.put_body(op, &header.identity(), &body[..49]),
        Err(PutError::Body)
    );
    let other_op = entry(2, 0, 10);
    assert_eq!(
        journal.put_body(op, &other_op.0.identity(), &other_op.1),
        Err(PutError::Identity)
    );
    assert_eq!(journal.state(op), SlotState::Missing);

    assert_eq!(journal.put_body(op, &header.identity(), &body), Ok(()));
    assert_eq!(journal.read(op), Ok((&header, &body[..])));
    assert_eq!(
        journal.put_body(op, &header.identity(), &body),
        Err(PutError::Present)
    );
    for outside in [0, 4, 11] {
        let refused = journal.put_body(Op::new(outside), &header.identity(), &body);
        assert_eq!(refused, Err(PutError::NotReserved));
    }
}

#[test]
fn truncation_gives_the_room_back_and_forgets_what_was_above() {
    let mut journal = filled(16, 8 * LINE_SIZE, 3, 2 * LINE_SIZE);
    journal.truncate(Op::new(1), Op::new(1));
    assert_eq!(
        (journal.head(), journal.bytes_used()),
        (Op::new(1), 2 * LINE_SIZE)
    );
    for op in 2..=3 {
        assert_eq!(journal.state(Op::new(op)), SlotState::Empty);
        assert_eq!(journal.read(Op::new(op)), Err(ReadError::Empty));
    }
    // Six lines are free: three new bodies do not touch op 1.
    for op in 2..=4 {
        let (header, body) = entry(op, 1, 2 * LINE_SIZE);
        journal.append(&header, &body, Op::new(1));
        assert_eq!(journal.read(Op::new(op)), Ok((&header, &body[..])));
    }
    assert_eq!(journal.tail(), Op::new(1));
    assert!(!journal.room(1, Op::new(1)));
}

#[test]
fn truncation_does_not_bring_back_what_was_overwritten() {
    let mut journal = filled(16, 4 * LINE_SIZE, 6, LINE_SIZE);
    assert_eq!(journal.tail(), Op::new(3));
    journal.truncate(Op::new(3), Op::new(2));
    assert_eq!(journal.tail(), Op::new(3));
    assert_eq!(journal.read(Op::new(2)), Err(ReadError::Overwritten));
    assert!(journal.read(Op::new(3)).is_ok());
    // Down to nothing but headers.
    journal.truncate(Op::new(2), Op::new(2));
    assert_eq!((journal.tail(), journal.bytes_used()), (Op::new(3), 0));
    append(&mut journal, 3, 1, LINE_SIZE);
    assert_eq!(
        journal.read(Op::new(3)).map(|(header, _)| header.view()),
        Ok(View::new(1))
    );
}

#[test]
#[should_panic(expected = "a committed op is never dropped")]
fn truncating_a_committed_op_is_our_own_bug() {
    filled(8, 1 << 12, 5, 10).truncate(Op::new(3), Op::new(4));
}

#[test]
#[should_panic(expected = "only shortens the log")]
fn truncating_beyond_the_head_is_our_own_bug() {
    filled(8, 1 << 12, 5, 10).truncate(Op::new(6), Op::new(4));
}

#[test]
fn a_mark_survives_that_the_same_header_is_installed_again() {
    // T20b: R2's copy of a committed op goes bad, start_view installs its header again.
    let mut journal = filled(8, 1 << 12, 4, 100);
    journal.mark_faulty(Op::new(3));
    assert_eq!(journal.read(Op::new(3)), Err(ReadError::Faulty));
    journal.truncate(Op::new(2), Op::new(2));
    assert_eq!(
        append_header(&mut journal, 3, 0, 100),
        SlotState::Faulty,
        "no nack"
    );
    // Op 4 was whole, and nobody has written over it.
    assert_eq!(append_header(&mut journal, 4, 0, 100), SlotState::Present);
    let (header, body) = entry(4, 0, 100);
    assert_eq!(journal.read(Op::new(4)), Ok((&header, &body[..])));
    // Only its own body mends it.
    let (header, body) = entry(3, 0, 100);
    assert_eq!(
        journal.put_body(Op::new(3), &header.identity(), &body),
        Ok(())
    );
    assert_eq!(journal.state(Op::new(3)), SlotState::Present);
}

#[test]
fn an_entry_once_held_never_turns_up_as_never_received() {
    // Its bytes were overwritten while the head was lower.
    let mut journal = filled(8, 1 << 12, 4, 100);
    journal.truncate(Op::new(2), Op::new(2));
    append(&mut journal, 3, 1, 300);
    journal.truncate(Op::new(2), Op::new(2));
    assert_eq!(
        append_header(&mut journal, 3, 2, 100),
        SlotState::Missing,
        "another entry"
    );
    assert_eq!(append_header(&mut journal, 4, 0, 100), SlotState::Faulty);
    // Both copies of its slot were damaged while it was above the head.
    let mut journal = filled(8, 1 << 12, 4, 100);
    journal.truncate(Op::new(3), Op::new(2));
    for copy in 0..2 {
        journal.flip_bit_in_header(Op::new(4), copy, 500);
    }
    assert_eq!(append_header(&mut journal, 4, 0, 100), SlotState::Faulty);
    // A body that never came stays one that never came.
    let mut journal = filled(8, 1 << 12, 3, 100);
    append_header(&mut journal, 4, 0, 100);
    journal.truncate(Op::new(3), Op::new(2));
    assert_eq!(append_header(&mut journal, 4, 0, 100), SlotState::Missing);
}

#[test]
fn a_reset_starts_at_any_op() {
    let mut journal = filled(8, 1 << 12, 5, 100);
    journal.reset(Op::new(100));
    assert_eq!(
        (journal.head(), journal.tail()),
        (Op::new(100), Op::new(101))
    );
    for op in [1, 4, 5, 100, 101] {
        assert_eq!(journal.state(Op::new(op)), SlotState::Empty);
    }
    let (parent, _) = entry(200, 0, 100);
    journal.reset_with(&parent);
    assert_eq!(
        (journal.head(), journal.oldest(), journal.tail()),
        (Op::new(200), Op::new(200), Op::new(201))
    );
    assert_eq!(journal.header(Op::new(200)), Some(&parent));
    assert_eq!(journal.read(Op::new(200)), Err(ReadError::Overwritten));
    for op in 201..300 {
        append(&mut journal, op, 0, 500);
        let (header, body) = entry(op, 0, 500);
        assert_eq!(journal.read(Op::new(op)), Ok((&header, &body[..])));
    }
    assert_eq!(journal.oldest(), Op::new(292));
}

#[test]
fn what_is_documented_to_fit_always_fits() {
    let lines = 32;
    for largest in 1..=lines {
        let mut journal = Journal::new(1024, lines * LINE_SIZE);
        for op in 1..400_u64 {
            let size = (op as usize * 7919) % (largest * LINE_SIZE) + 1;
            append(&mut journal, op, 0, size);
            let (mut sum, mut first) = (0, op + 1);
            while first > 1 {
                let size = entry_size(&journal, first - 1).next_multiple_of(LINE_SIZE);
                if sum + size > (lines - largest) * LINE_SIZE {
                    break;
                }
                sum += size;
                first -= 1;
            }
            assert!(
                journal.tail() <= Op::new(first),
                "at op {op}, largest {largest}"
            );
        }
    }
}

fn entry_size(journal: &Journal, op: u64) -> usize {
    journal.header(Op::new(op)).expect("held").body_size()
}

#[test]
fn what_was_never_written_is_no_slot() {
    for op in [Op::ZERO, Op::new(5)] {
        assert!(!is_header_of(&Header::zeroed(), op));
        assert!(!is_header_of(&fresh_header(), op));
        assert_eq!(Place::zeroed().open(op), None);
        assert_eq!(Place::fresh().open(op), None);
    }
}

const _: () = assert!(SLOT_BITS == (HEADER_SIZE + 24) * 8);

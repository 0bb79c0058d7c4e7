//! One round of the scrubber finds every flipped bit, wherever it is.

use alloc::vec::Vec;

use bytemuck::Zeroable;
use vsr_types::{Header, View};

use super::*;
use crate::SLOT_BITS;

fn entry(op: u64, view: u64) -> (Header, Vec<u8>) {
    let body: Vec<u8> = (0..70 + op).map(|i| (i * (op + 3)) as u8).collect();
    let mut header = Header::new(Prepare {
        op: Op::new(op),
        ..Prepare::zeroed()
    });
    header.set_view(View::new(view));
    header.seal(&body);
    (header, body)
}

/// Eight slots: one never used, three that are held, one of them without a body, and one that is only
/// remembered, since the head was moved back behind it.
fn journal() -> Journal {
    let mut journal = Journal::new(8, 4096);
    for op in 1..=5 {
        let (header, body) = entry(op, 0);
        if op == 3 {
            journal.append_header(&header, Op::new(1));
        } else {
            journal.append(&header, &body, Op::new(1));
        }
    }
    journal.truncate(Op::new(4), Op::ZERO);
    journal
}

/// Everything that the slots hold, as bytes.
fn image(journal: &Journal) -> Vec<u8> {
    let mut image = Vec::new();
    for copy in 0..2 {
        image.extend_from_slice(bytemuck::cast_slice(&journal.headers[copy]));
        image.extend_from_slice(bytemuck::cast_slice(&journal.places[copy]));
    }
    image
}

fn round(journal: &mut Journal) -> (u32, Vec<Op>) {
    let (mut mended, mut faulty) = (0, Vec::new());
    for slot in 0..journal.slots() {
        let seen = journal.scrub_slot(slot);
        mended += seen.mended;
        faulty.extend(seen.faulty);
    }
    (mended, faulty)
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let mut journal = journal();
    let before = image(&journal);
    assert_eq!(round(&mut journal), (0, Vec::new()));
    assert_eq!(image(&journal), before);
    assert_eq!(journal.state(Op::new(3)), SlotState::Missing);
}

#[test]
fn every_flipped_bit_of_every_slot_is_mended_used_remembered_or_fresh() {
    let mut journal = journal();
    let before = image(&journal);
    for slot in 0..journal.slots() as u64 {
        for copy in 0..2 {
            for bit in 0..SLOT_BITS {
                journal.flip_bit_in_header(Op::new(slot), copy, bit);
                assert_ne!(image(&journal), before);
                assert_eq!(
                    round(&mut journal),
                    (1, Vec::new()),
                    "slot {slot} bit {bit}"
                );
                assert!(image(&journal) == before, "slot {slot} bit {bit}");
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_body_is_found_once_and_named_until_it_is_repaired() {
    let mut journal = journal();
    let (header, body) = entry(2, 0);
    for bit in 0..body.len() * 8 {
        journal.flip_bit_in_body(Op::new(2), bit);
        let seen = journal.scrub_slot(2);
        assert_eq!((seen.faulty, seen.is_news), (Some(Op::new(2)), true));
        let again = journal.scrub_slot(2);
        assert_eq!((again.faulty, again.is_news), (Some(Op::new(2)), false));
        journal
            .put_body(Op::new(2), &header.identity(), &body)
            .unwrap();
        assert_eq!(journal.scrub_slot(2).faulty, None);
    }
}

#[test]
fn a_slot_whose_place_is_lost_is_put_together_from_its_header_and_its_neighbours() {
    let mut journal = journal();
    let before = image(&journal);
    for bit in HEADER_SIZE * 8..SLOT_BITS {
        for copy in 0..2 {
            journal.flip_bit_in_header(Op::new(2), copy, bit);
        }
        assert_eq!(journal.state(Op::new(2)), SlotState::Faulty);
        assert_eq!(round(&mut journal), (1, Vec::new()));
        assert!(image(&journal) == before);
    }
}

/// R5.5: whatever happens to the notes about an entry whose body never came, the scrubber does not make
/// "never received" of it; and what may have been held before the log was cut is not denied.
#[test]
fn damage_in_both_copies_never_becomes_a_denial() {
    for bit in (HEADER_SIZE * 8..SLOT_BITS).step_by(3) {
        let mut journal = journal();
        for copy in 0..2 {
            journal.flip_bit_in_header(Op::new(3), copy, bit);
        }
        round(&mut journal);
        assert_eq!(journal.state(Op::new(3)), SlotState::Faulty, "bit {bit}");
    }
    let identity = entry(5, 0).0.identity();
    for bit in (0..SLOT_BITS).step_by(3) {
        let mut journal = journal();
        for copy in 0..2 {
            journal.flip_bit_in_header(Op::new(5), copy, bit);
        }
        assert!(journal.may_have_held(Op::new(5), &identity), "bit {bit}");
        round(&mut journal);
        assert!(journal.may_have_held(Op::new(5), &identity), "bit {bit}");
    }
}

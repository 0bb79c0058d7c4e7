//! Every flipped bit is found when it is read, and what can be mended is mended.

use super::*;

#[test]
fn a_flipped_bit_in_one_copy_of_a_slot_costs_nothing() {
    let mut journal = filled(8, 1 << 12, 4, 100);
    let (header, body) = entry(3, 0, 100);
    for copy in 0..2 {
        for bit in 0..SLOT_BITS {
            journal.flip_bit_in_header(Op::new(3), copy, bit);
            assert!(!is_whole(&journal, 3, copy), "copy {copy} bit {bit}");
            assert_eq!(journal.read(Op::new(3)), Ok((&header, &body[..])));
            assert_eq!(journal.scrub(Op::new(3)), SlotState::Present);
            assert!(is_whole(&journal, 3, copy), "mended from the other");
        }
    }
}

fn is_whole(journal: &Journal, op: usize, copy: usize) -> bool {
    let wanted = Op::new(op as u64);
    is_header_of(&journal.headers[copy][op], wanted)
        && journal.places[copy][op].open(wanted).is_some()
}

#[test]
fn a_flipped_bit_in_both_copies_is_found_on_every_way_to_read() {
    let clean = filled(8, 1 << 12, 4, 100);
    let (header, body) = entry(3, 0, 100);
    // Two bits of the header, or two of the place.
    let header_bits = (0..HEADER_SIZE * 8).map(|bit| (bit, (bit * 5 + 3) % (HEADER_SIZE * 8)));
    let place_bits = (HEADER_SIZE * 8..SLOT_BITS).map(|bit| (bit, SLOT_BITS - 1 - bit % 128));
    for (bit, other_bit) in header_bits.chain(place_bits) {
        let mut journal = filled(8, 1 << 12, 4, 100);
        journal.flip_bit_in_header(Op::new(3), 0, bit);
        journal.flip_bit_in_header(Op::new(3), 1, other_bit);
        let is_known = bit >= HEADER_SIZE * 8;
        assert_eq!(
            journal.header(Op::new(3)),
            is_known.then_some(&header),
            "bit {bit}"
        );
        assert_eq!(journal.state(Op::new(3)), SlotState::Faulty);
        assert_eq!(journal.read(Op::new(3)), Err(ReadError::Faulty));
        let unverified = journal.read_unverified_body(Op::new(3));
        assert_eq!(unverified, Err(ReadError::Faulty));
        for other in [1, 2, 4] {
            assert_eq!(journal.read(Op::new(other)), clean.read(Op::new(other)));
        }
        let refused = journal.put_body(Op::new(3), &header.identity(), &body);
        assert_eq!(refused, Err(PutError::Identity), "not without its slot");
        let restored = journal.restore_header(&header);
        assert_eq!(restored, Ok(SlotState::Present));
        assert_eq!(journal.read(Op::new(3)), Ok((&header, &body[..])));
    }
}

#[test]
fn a_flipped_bit_in_a_body_is_found_and_repaired() {
    let mut journal = filled(8, 1 << 12, 4, 100);
    let (header, body) = entry(2, 0, 100);
    let op = Op::new(2);
    for bit in 0..800 {
        journal.flip_bit_in_body(op, bit);
        assert_eq!(journal.read(op), Err(ReadError::Faulty), "bit {bit}");
        let (_, unverified) = journal.read_unverified_body(op).expect("the slot is right");
        assert_ne!(unverified, body);
        assert_eq!(journal.scrub(op), SlotState::Faulty);
        let marked = journal.read_unverified_body(op);
        assert_eq!(marked, Err(ReadError::Faulty), "once it is marked");
        assert_eq!(journal.put_body(op, &header.identity(), &body), Ok(()));
        assert_eq!(journal.read(op), Ok((&header, &body[..])));
    }
}

#[test]
fn a_lost_slot_is_restored_from_what_lies_beside_it() {
    let sizes = [100, 0, 64, 700, 1, 300, 500, 900];
    let build = || {
        let mut journal = Journal::new(8, 2048);
        for (op, size) in (1..).zip(sizes) {
            append(&mut journal, op, 0, size);
        }
        journal
    };
    let clean = build();
    let tail = clean.tail().raw();
    assert!(tail < 7, "several bodies, with a gap at the region's end");
    for op in tail..=8 {
        let mut journal = build();
        lose(&mut journal, op);
        let (header, body) = entry(op, 0, sizes[op as usize - 1]);
        let restored = journal.restore_header(&header);
        assert_eq!(restored, Ok(SlotState::Present), "op {op}");
        assert_eq!(journal.read(Op::new(op)), Ok((&header, &body[..])));
        if body.is_empty() {
            continue;
        }

        // A damaged body as well: the header comes back as faulty, then takes the body.
        let mut journal = build();
        journal.flip_bit_in_body(Op::new(op), 3);
        lose(&mut journal, op);
        let restored = journal.restore_header(&header);
        assert_eq!(restored, Ok(SlotState::Faulty), "op {op}");
        let put = journal.put_body(Op::new(op), &header.identity(), &body);
        assert_eq!(put, Ok(()));
        for other in tail..=8 {
            assert_eq!(journal.read(Op::new(other)), clean.read(Op::new(other)));
        }
    }
}

#[test]
fn a_lost_slot_takes_no_header_that_does_not_fit() {
    let lost = |ops: &[u64]| {
        let mut journal = filled(8, 1 << 12, 5, 100);
        for &op in ops {
            lose(&mut journal, op);
        }
        journal
    };
    let restore = |journal: &mut Journal, op, size| journal.restore_header(&entry(op, 0, size).0);
    assert_eq!(restore(&mut lost(&[]), 3, 100), Err(PutError::Present));
    assert_eq!(restore(&mut lost(&[]), 6, 100), Err(PutError::NotReserved));
    assert_eq!(restore(&mut lost(&[3]), 3, 3000), Err(PutError::Place));
    assert_eq!(restore(&mut lost(&[2, 3]), 3, 3000), Err(PutError::Place));
    assert_eq!(restore(&mut lost(&[2, 3, 4]), 3, 100), Err(PutError::Place));

    // It would reach into the place of op 2, whose header is lost but whose place is known.
    let mut journal = lost(&[3]);
    journal.flip_bit_in_header(Op::new(2), 0, 300);
    journal.flip_bit_in_header(Op::new(2), 1, 301);
    assert_eq!(restore(&mut journal, 3, 300), Err(PutError::Place));
    assert_eq!(restore(&mut journal, 3, 100), Ok(SlotState::Present));

    // From either end of a row of lost ones, all come back.
    for order in [[2, 3, 4], [4, 3, 2]] {
        let mut journal = lost(&[2, 3, 4]);
        for op in order {
            assert_eq!(restore(&mut journal, op, 100), Ok(SlotState::Present));
        }
    }
}

#[test]
fn lost_slots_err_towards_protecting() {
    // Op 2 is protected, its place is unknown: the place of op 1 stands in for it.
    let mut journal = filled(16, 4 * LINE_SIZE, 4, LINE_SIZE);
    assert!(journal.room(1, Op::new(2)));
    lose(&mut journal, 2);
    assert!(!journal.room(1, Op::new(2)));
    // With op 2 released, everything goes on.
    assert!(journal.room(1, Op::new(3)));
    let (header, body) = entry(5, 0, 1);
    journal.append(&header, &body, Op::new(3));
    for op in 3..=5 {
        assert!(journal.read(Op::new(op)).is_ok());
    }
}

#[test]
fn with_every_slot_lost_nothing_that_may_be_protected_is_overwritten() {
    let mut journal = filled(16, 4 * LINE_SIZE, 6, LINE_SIZE);
    assert!(journal.room(1, Op::new(4)));
    for op in 1..=6 {
        lose(&mut journal, op);
    }
    assert!(!journal.room(1, Op::new(4)));
    assert!(journal.room(1, Op::new(7)), "nothing is protected any more");
    append(&mut journal, 7, 0, 1);
    assert!(journal.read(Op::new(7)).is_ok());
}

#[test]
fn truncation_to_lost_slots_keeps_every_other_entry() {
    for lost in [&[4][..], &[4, 5], &[5]] {
        let mut journal = filled(16, 1 << 12, 6, 100);
        for &op in lost {
            lose(&mut journal, op);
        }
        journal.truncate(Op::new(4), Op::new(4));
        for op in 5..=12 {
            let (header, body) = entry(op, 1, 200);
            journal.append(&header, &body, Op::new(1));
        }
        for op in (1..=3).chain(5..=12) {
            let read = journal.read(Op::new(op));
            assert!(read.is_ok(), "op {op} with {lost:?} lost");
        }
    }
}

/// Damages both copies of the slot of `op`, each in header and place.
fn lose(journal: &mut Journal, op: u64) {
    for copy in 0..2 {
        journal.flip_bit_in_header(Op::new(op), copy, 300 + copy);
        journal.flip_bit_in_header(Op::new(op), copy, 1030);
    }
}

//! Transfers among three replicas in one thread, over a network that is as slow as a test wants it: when
//! they begin (R8.2), and what is installed (R8.5).

extern crate std;

mod cells;
mod files;
mod mending;
mod outrun;
mod world;

use core::time::Duration;
use std::vec::Vec;

use cells::{CELLS_PER_CHUNK, Cells};
use vsr_types::Command;
use vsr_types::message::{NewState, PeerStatus, STATE_CHUNK};
use world::World;

use crate::StateMachine;
use crate::counters::Event;

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Three replicas with a state of `cells` numbers, the last of which has missed more than any journal
/// holds.
fn with_a_laggard(cells: u64) -> World {
    let mut world = World::formed();
    for index in 1..cells {
        if index % CELLS_PER_CHUNK as u64 == 1 || index < 40 {
            world.write(index, index * 7);
        }
    }
    world.settle_all();
    world.assert_equal();
    world.cut(2);
    for round in 0..400 {
        world.write(1 + round % 30, round);
    }
    world.pass(millis(50));
    let tail = world.replicas[0].report().tail;
    assert!(
        world.replicas[2].report().op.next() < tail,
        "beyond the journals"
    );
    world
}

#[test]
fn who_is_beyond_all_journals_takes_over_the_state_while_clients_are_served() {
    let mut world = with_a_laggard(8000);
    let before = world.served;
    world.heal();
    // Few frames per turn: the transfer takes a while, and the load goes on all the time.
    world.frames_per_turn = 3;
    let mut turns = 0;
    while world.count(2, Event::TransfersFinished) == 0 {
        world.load();
        world.turn();
        turns += 1;
        assert!(turns < 5000, "the transfer ends");
    }
    assert!(
        world.served - before > 50,
        "{} were served",
        world.served - before
    );
    assert!(
        world.count(2, Event::StateChunksTakenAgain) > 0,
        "something changed meanwhile"
    );
    assert_eq!(world.count(2, Event::TransfersFailed), 0);
    assert_eq!(
        world.count(0, Event::StateChunksGiven),
        0,
        "the primary has enough to do"
    );
    assert!(world.count(1, Event::Holds) > 0);
    world.frames_per_turn = usize::MAX;
    for _ in 0..200 {
        world.load();
        world.turn();
    }
    world.settle_all();
    world.assert_equal();
    assert_eq!(
        world.replicas[2].report().status,
        PeerStatus::Normal,
        "it never ceased to be one"
    );
    // It holds and acknowledges again what is prepared.
    world.cut(1);
    world.write(5, 5);
}

#[test]
fn only_what_changed_since_its_own_state_travels() {
    let mut world = with_a_laggard(30_000);
    let chunks = world.replicas[0].machine().image_chunks();
    assert!(chunks > 400);
    world.heal();
    world.pass(millis(300));
    world.settle_all();
    world.assert_equal();
    assert_eq!(world.count(2, Event::TransfersFinished), 1);
    let taken = world.count(2, Event::StateChunksTaken);
    assert!(taken <= 12, "{taken} chunks of {chunks}");
}

#[test]
fn another_donor_goes_on_where_one_has_died() {
    let mut world = with_a_laggard(8000);
    world.heal();
    world.frames_per_turn = 2;
    while world.count(2, Event::StateChunksTaken) < 3 {
        world.load();
        world.turn();
    }
    assert_eq!(
        world.replicas[2].transfer().expect("running").donor.raw(),
        1
    );
    let taken = world.replicas[2].transfer().expect("running").taken;
    world.cut_link(1, 2);
    let mut turns = 0;
    while world.count(2, Event::TransfersFinished) == 0 {
        world.load();
        world.turn();
        turns += 1;
        assert!(
            turns < 5000,
            "the transfer ends: {:?}",
            world.replicas[2].transfer()
        );
    }
    assert!(
        world.count(0, Event::StateChunksGiven) > 0,
        "the primary is better than nobody"
    );
    assert_eq!(
        world.count(2, Event::TransfersBegun),
        1,
        "nothing was begun anew"
    );
    assert!(world.count(2, Event::StateChunksTaken) > taken);
    world.heal();
    world.frames_per_turn = usize::MAX;
    world.settle_all();
    world.assert_equal();
}

#[test]
fn a_state_with_another_digest_is_not_installed() {
    let mut world = with_a_laggard(3000);
    world.heal();
    // R1 sends chunks of its own making, in frames that are sound.
    world.tamper = Some(|from, frame, body| {
        let is_chunk = frame
            .fields::<NewState>()
            .is_some_and(|state| state.kind == STATE_CHUNK);
        if from == 1 && is_chunk && body.len() == CELLS_PER_CHUNK * 8 {
            body[8 * 17] ^= 4;
        }
    });
    world.pass(millis(1500));
    world.settle_all();
    assert!(
        world.count(2, Event::TransfersFailed) > 0,
        "the lie was noticed"
    );
    assert_eq!(world.count(2, Event::TransfersFinished), 1);
    assert!(
        world.count(0, Event::StateChunksGiven) > 0,
        "it came from somebody else"
    );
    world.assert_equal();
}

#[test]
fn damaged_numbers_in_answers_neither_harm_nor_stop_a_transfer() {
    for seed in 0..40_u64 {
        let mut world = with_a_laggard(2000);
        world.heal();
        world.seed = seed;
        world.garble = true;
        world.pass(millis(400));
        world.garble = false;
        world.pass(millis(1500));
        world.settle_all();
        assert!(world.count(2, Event::TransfersFinished) > 0, "seed {seed}");
        world.assert_equal();
    }
}

#[test]
fn a_donor_holds_back_execution_and_not_acknowledgements_and_not_for_ever() {
    let mut world = with_a_laggard(3000);
    world.heal();
    // The receiver never says that it is done.
    while !world.replicas[1].holds_execution() {
        world.turn();
    }
    world.cut_link(1, 2);
    let (applied, op) = (
        world.replicas[1].report().applied,
        world.replicas[1].report().op,
    );
    for round in 0..20 {
        world.write(3, round);
    }
    let report = world.replicas[1].report();
    assert_eq!(report.applied, applied, "held back");
    assert!(report.op > op, "and acknowledged all the same: R2 cannot");
    world.pass(millis(1200));
    let report = world.replicas[1].report();
    assert_eq!(report.applied, report.op, "the time is up");
    // A ring that fills up ends it sooner (R8.1).
    world.heal();
    world.pass(millis(3000));
    world.settle_all();
    world.assert_equal();
}

#[test]
fn a_full_ring_ends_a_hold() {
    let mut world = with_a_laggard(3000);
    world.heal();
    while !world.replicas[1].holds_execution() {
        world.turn();
    }
    world.cut_link(1, 2);
    let applied = world.replicas[1].report().applied;
    let slots = world.replicas[1].journal.slots() as u64;
    for round in 0..slots {
        world.write(3, round);
    }
    let report = world.replicas[1].report();
    assert!(
        report.applied > applied,
        "executed, although the time is not up"
    );
    assert_eq!(
        world.replicas[0].report().commit,
        report.op,
        "nobody waited"
    );
}

#[test]
fn replies_survive_the_transfer_and_later_evictions_agree() {
    let mut world = with_a_laggard(2000);
    world.heal();
    world.pass(millis(400));
    world.settle_all();
    world.assert_equal();
    let replies = |world: &World, replica: usize| -> Vec<(u64, Vec<u8>)> {
        let sessions = &world.replicas[replica].sessions;
        let reply = |report: crate::SessionReport| {
            let slot = sessions.slot_of(report.client).expect("listed");
            let mut buffer = std::vec![0; 1 << 20];
            let (executed, reply) = sessions.reply(slot, &mut buffer).expect("undamaged");
            (executed.request.raw(), reply.to_vec())
        };
        sessions.reports().map(reply).collect()
    };
    assert_eq!(replies(&world, 2), replies(&world, 0));
    assert!(
        replies(&world, 2)
            .iter()
            .any(|(_, reply)| !reply.is_empty())
    );
    // More clients than there are sessions.
    for _ in 0..40 {
        world.newcomer();
        world.write(9, 9);
    }
    world.settle_all();
    world.assert_equal();
    assert_eq!(replies(&world, 2), replies(&world, 0));
}

#[test]
fn a_transfer_that_is_not_wanted_changes_nothing() {
    let mut world = World::formed();
    world.write(1, 1);
    world.settle_all();
    let digest = world.digest(2);
    // Answers that nobody asked for.
    let answer = NewState {
        question: 1,
        op: world.replicas[0].report().applied,
        chunk: 0,
        chunks: 100,
        number: 0,
        kind: STATE_CHUNK,
    };
    world.forge(1, 2, answer, &[7; 64]);
    world.settle_all();
    assert_eq!(world.digest(2), digest);
    assert_eq!(world.replicas[2].counters().sent_of(Command::GetState), 0);
}

#[test]
fn nothing_is_allocated_during_a_transfer() {
    let mut world = with_a_laggard(4000);
    world.heal();
    world.measures = true;
    world.pass(millis(500));
    assert_eq!(world.count(2, Event::TransfersFinished), 1);
    assert!(world.steps > 100);
    assert_eq!(
        world.allocated, 0,
        "allocations while the state was transferred"
    );
    world.measures = false;
    // The counter counts: this machine's own vectors are seen.
    let counted = allocation_counter::measure(|| {
        drop(Cells::new(10));
    });
    assert!(counted.count_total > 0);
}

/// A crash of `replica` when the journals have gone on further than they hold, and its recovery under
/// load.
fn crashed_and_recovered(replica: u8) -> World {
    let mut world = World::formed_with(millis(100));
    for index in 0..300 {
        world.write(1 + index * 37 % 9000, index);
    }
    world.crash(replica);
    for round in 0..20 {
        world.write(1 + round, round);
    }
    world.restart(replica);
    world.frames_per_turn = 4;
    let mut turns = 0;
    while !world.is_normal(usize::from(replica)) {
        if turns % 3 == 0 {
            world.load();
        }
        world.turn();
        turns += 1;
        assert!(
            turns < 20_000,
            "{:?}",
            world.replicas[usize::from(replica)].report()
        );
    }
    assert!(world.count(usize::from(replica), Event::TransfersFinished) > 0);
    world.frames_per_turn = usize::MAX;
    world.settle_all();
    world.assert_equal();
    world
}

#[test]
fn who_lost_its_memory_gets_the_state_back_while_clients_are_served() {
    let mut world = crashed_and_recovered(2);
    // It counts again: with R1 gone, nothing is committed without it.
    world.crash(1);
    world.write(7, 7);
    world.settle_all();
    world.assert_equal();
}

#[test]
fn a_primary_that_came_back_through_a_transfer_repeats_what_clients_were_told() {
    let mut world = crashed_and_recovered(1);
    for round in 0..20 {
        world.write(1 + round, round + 100);
    }
    world.settle_all();
    world.crash(0);
    world.pass(millis(1000));
    assert!(world.is_normal(1) && world.replicas[1].report().view.raw() == 1);
    world.primary = 1;
    world.settle_all();
    world.assert_equal();
    // `World::on_reply` compares each answer with the first.
    let repeated = world.retry_all();
    assert!(
        repeated >= world.clients() - 1,
        "{repeated} were answered from memory"
    );
    world.write(3, 3);
    world.settle_all();
    world.assert_equal();
}

/// S41: the receiver has given up its old state when its donor dies.
#[test]
fn s41_drop_state_then_fail() {
    for seed in 0..6 {
        let mut world = World::formed_with(millis(100));
        for index in 0..300 {
            world.write(1 + index * 37 % 9000, index);
        }
        world.crash(2);
        world.restart(2);
        world.frames_per_turn = 2;
        let mut turns = 0;
        while world.replicas[2]
            .transfer()
            .is_none_or(|running| running.taken < 2 + seed)
        {
            world.turn();
            turns += 1;
            assert!(turns < 20_000, "the transfer begins");
        }
        let donor = world.replicas[2].transfer().expect("running").donor.raw();
        assert_eq!(donor, 1, "a backup gives");
        let alone = seed % 2 == 0;
        world.crash(1);
        if alone {
            world.crash(0);
        }
        world.frames_per_turn = usize::MAX;
        world.pass(millis(1500));
        if alone {
            // Nobody is left to give the rest: half a state is none, whoever asks.
            assert!(!world.is_normal(2), "seed {seed}");
            for promise in [
                Command::PrepareOk,
                Command::DoViewChange,
                Command::StartViewChange,
            ] {
                assert_eq!(world.replicas[2].counters().sent_of(promise), 0);
            }
            continue;
        }
        // It had registered with both: what is missing comes from the other one.
        world.settle_all();
        world.assert_equal();
        world.write(1, 1);
    }
}

/// S40: more is prepared during the transfer than a ring holds.
#[test]
fn s40_snapshot_while_wrapping() {
    let mut world = with_a_laggard(8000);
    world.heal();
    world.frames_per_turn = 1;
    let op = world.replicas[0].report().op;
    while world.count(2, Event::TransfersFinished) == 0 {
        for round in 0..20 {
            world.write(1 + round % 30, round);
        }
    }
    let slots = world.replicas[0].journal.slots() as u64;
    assert!(
        world.replicas[0].report().op.distance_from(op) > slots,
        "the ring has wrapped"
    );
    let report = world.replicas[2].report();
    assert!(
        report.op >= report.applied,
        "nothing that was held behind it was dropped"
    );
    world.frames_per_turn = usize::MAX;
    world.settle_all();
    world.assert_equal();
}

/// Each rule of the transfer is needed: without it one of the tests above fails.
#[cfg(feature = "mutate")]
#[test]
fn without_any_of_its_rules_a_transfer_ends_in_another_state() {
    use crate::Mutant;
    use std::panic::catch_unwind;
    let broken: [(Mutant, fn()); 3] = [
        (
            Mutant::SessionsNotInImage,
            replies_survive_the_transfer_and_later_evictions_agree,
        ),
        (
            Mutant::ImageUnverified,
            a_state_with_another_digest_is_not_installed,
        ),
        (
            Mutant::ChangedChunksKept,
            who_is_beyond_all_journals_takes_over_the_state_while_clients_are_served,
        ),
    ];
    for (mutant, test) in broken {
        world::MUTANT.set(Some(mutant));
        let outcome = catch_unwind(test);
        world::MUTANT.set(None);
        assert!(
            outcome.is_err(),
            "nobody notices that {} is off",
            mutant.name()
        );
        test();
    }
}

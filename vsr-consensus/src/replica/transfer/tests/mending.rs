//! Chunks that went bad in a replica's own state, and how they are replaced in place (M3).

use vsr_types::Command;
use vsr_types::message::{NewState, STATE_CHUNK};

use super::cells::CELLS_PER_CHUNK;
use super::millis;
use super::world::World;
use crate::counters::Event;

/// Three replicas with a state of many chunks, all of them up to date.
fn with_a_state(mut world: World) -> World {
    for index in 1..20_000 {
        if index % CELLS_PER_CHUNK as u64 == 1 || index < 40 {
            world.write(index, index * 7);
        }
    }
    world.settle_all();
    world.assert_equal();
    world
}

fn assert_sound(world: &World) {
    world.assert_equal();
    for replica in &world.replicas {
        assert!(replica.has_state());
        assert!(replica.machine().is_sound(), "the bits are what they were");
    }
}

/// Whatever is given as state is not what it was.
fn spoil(world: &mut World) {
    world.tamper = Some(|_, frame, body| {
        let is_chunk = frame
            .fields::<NewState>()
            .is_some_and(|state| state.kind == STATE_CHUNK);
        if is_chunk && body.len() == CELLS_PER_CHUNK * 8 {
            body[8 * 17] ^= 4;
        }
    });
}

#[test]
fn a_damaged_chunk_comes_from_a_donor_and_hardly_anything_else_does() {
    let mut world = with_a_state(World::formed());
    let bad = [world.flip(2, 5000), world.flip(2, 12_345)];
    assert!(world.repair_state(2, &bad));
    assert!(!world.replicas[2].has_state(), "it is not used any more");
    let applied = world.replicas[2].report().applied;
    world.write(5, 5);
    assert_eq!(
        world.replicas[2].report().applied,
        applied,
        "not executed on"
    );
    world.settle_all();
    assert_eq!(world.count(2, Event::TransfersFinished), 1);
    assert_eq!(world.count(2, Event::TransfersFailed), 0);
    let taken = world.count(2, Event::StateChunksTaken);
    assert!((2..12).contains(&taken), "{taken} chunks");
    world.settle_all();
    assert_sound(&world);
}

#[test]
fn who_mends_its_state_goes_on_acknowledging() {
    let mut world = with_a_state(World::formed());
    world.cut(1);
    spoil(&mut world);
    let bad = world.flip(2, 5000);
    assert!(world.repair_state(2, &[bad]));
    let acknowledged = world.replicas[2].counters().sent_of(Command::PrepareOk);
    for round in 0..50 {
        // R0 alone is no quorum.
        world.write(3, round);
    }
    world.pass(millis(300));
    assert!(!world.replicas[2].has_state());
    assert!(
        world.count(2, Event::TransfersFailed) > 0,
        "no lie is installed"
    );
    assert!(world.replicas[2].counters().sent_of(Command::PrepareOk) >= acknowledged + 50);
    let op = world.replicas[2].report().op;
    world.tamper = None;
    world.heal();
    world.pass(millis(1500));
    assert!(
        world.replicas[2].report().op >= op,
        "nothing acknowledged is dropped"
    );
    world.settle_all();
    assert_sound(&world);
}

#[test]
fn a_damaged_primary_lets_another_one_lead() {
    let mut world = with_a_state(World::formed_with(millis(100)));
    let bad = world.flip(0, 5000);
    assert!(world.repair_state(0, &[bad]));
    assert!(!world.is_normal(0), "it has left the view");
    world.pass(millis(600));
    let view = world.replicas[1].report().view;
    assert!(view.raw() > 0 && world.is_normal(1));
    world.primary = world.replicas[1].report().primary.raw();
    assert_ne!(world.primary, 0);
    world.settle_all();
    world.write(5, 5);
    world.settle_all();
    assert_eq!(world.count(0, Event::TransfersFinished), 1);
    assert_sound(&world);
}

#[test]
fn a_damaged_elect_lets_another_one_lead() {
    let mut world = with_a_state(World::formed_with(millis(100)));
    spoil(&mut world);
    let bad = world.flip(1, 5000);
    assert!(world.repair_state(1, &[bad]));
    world.pass(millis(50));
    // R1 leads view 1.
    world.crash(0);
    world.pass(millis(1500));
    let report = world.replicas[2].report();
    assert_eq!(report.primary.raw(), 2, "view {}", report.view.raw());
    assert!(world.is_normal(2));
    world.primary = 2;
    world.write(5, 5);
    assert!(!world.replicas[1].has_state());
    world.tamper = None;
    world.pass(millis(1500));
    world.settle_all();
    assert!(world.replicas[1].has_state() && world.replicas[1].machine().is_sound());
}

#[test]
fn with_very_many_bad_chunks_or_one_that_does_not_exist_everything_is_fetched() {
    let mut world = with_a_state(World::formed());
    let bad: alloc::vec::Vec<u64> = (0..20).map(|i| world.flip(2, 700 * i + 70)).collect();
    assert!(world.repair_state(2, &bad));
    world.pass(millis(500));
    world.settle_all();
    assert_sound(&world);
    assert!(world.count(2, Event::StateChunksTaken) > 300);
    world.flip(1, 600);
    assert!(world.repair_state(1, &[u64::MAX]));
    world.pass(millis(500));
    world.settle_all();
    assert_sound(&world);
}

#[test]
fn a_second_finding_during_the_transfer_changes_nothing() {
    let mut world = with_a_state(World::formed());
    let bad = world.flip(2, 5000);
    assert!(world.repair_state(2, &[bad]));
    assert!(world.repair_state(2, &[bad, bad + 1]));
    world.settle_all();
    assert_eq!(world.count(2, Event::TransfersBegun), 1);
    assert_sound(&world);
}

#[test]
fn who_belongs_to_no_cluster_has_nothing_to_mend() {
    let mut world = with_a_state(World::formed());
    world.crash(2);
    world.restart(2);
    assert!(!world.repair_state(2, &[1]));
    assert!(world.replicas[2].transfer().is_none());
}

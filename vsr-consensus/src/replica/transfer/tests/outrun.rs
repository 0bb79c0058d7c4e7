//! A load that changes more than a donor can give (R8.6).

use vsr_types::message::PeerStatus;

use super::{millis, with_a_laggard};
use crate::counters::Event;

/// In every turn each of the clients changes something somewhere, and one chunk travels: what changes while
/// a pass is made is nearly everything, and a ring is full long before that is given.
#[test]
fn a_transfer_ends_under_a_load_that_outruns_it() {
    let mut world = with_a_laggard(8000);
    world.heal();
    world.frames_per_turn = 1;
    world.cells = 38_000;
    let (mut turns, mut idle, mut served) = (0, 0, world.served);
    while world.count(2, Event::TransfersFinished) == 0 || world.replicas[2].transfer().is_some() {
        world.load();
        world.turn();
        turns += 1;
        idle = if world.served > served { 0 } else { idle + 1 };
        served = world.served;
        assert!(
            turns < 20_000,
            "{} holds broken: {:?}",
            world.count(2, Event::HoldsBroken),
            world.replicas[2].transfer()
        );
        assert!(idle < 2000, "clients see that the primary lives");
    }
    assert!(
        world.count(2, Event::HoldsBroken) > 0,
        "the load is high enough"
    );
    assert_eq!(world.count(0, Event::WentSlowly), 1);
    // It catches up under the same load, and then nobody waits for it any more.
    let lag = |world: &super::world::World| {
        let known = world.replicas[0].report().op;
        known.distance_from(world.replicas[2].report().applied)
    };
    world.frames_per_turn = 3;
    while lag(&world) > 8 {
        world.load();
        world.turn();
        turns += 1;
        assert!(turns < 40_000, "{}", lag(&world));
    }
    let turns_of_load = |world: &mut super::world::World| {
        for _ in 0..400 {
            world.load();
            world.turn();
        }
    };
    // Its last word wears off.
    turns_of_load(&mut world);
    let before = world.replicas[0].report().op;
    turns_of_load(&mut world);
    assert!(
        world.replicas[0].report().op.distance_from(before) > 100,
        "full speed"
    );
    world.frames_per_turn = usize::MAX;
    world.settle_all();
    world.assert_equal();
    assert_eq!(world.replicas[2].report().status, PeerStatus::Normal);
}

/// A word that is repeated for ever does not slow a primary down for ever.
#[test]
fn a_primary_goes_slowly_for_a_bounded_time() {
    let mut world = with_a_laggard(2000);
    world.cut(2);
    let since = world.replicas[0].report().commit;
    let mut slow = 0;
    let mut fast = 0;
    for _ in 0..1500 {
        world.ask_to_go_slowly(2, 0, since);
        let before = world.replicas[0].report().op;
        for _ in 0..50 {
            world.load();
            world.turn();
        }
        match world.replicas[0].report().op.distance_from(before) {
            0..=3 => slow += 1,
            8.. => fast += 1,
            _ => {}
        }
    }
    // Ten seconds of fifteen, after a part of the ring.
    assert!((900..=1000).contains(&slow), "{slow} slow, {fast} fast");
    assert!(fast >= 450, "{slow} slow, {fast} fast");
    world.heal();
    world.pass(millis(500));
    world.settle_all();
    world.assert_equal();
}

//! Who takes part in which init, and who does not.

use super::*;

#[test]
fn who_agreed_to_one_proposal_refuses_another_for_some_seconds() {
    let mut world = World::blank(0, 3, |_| {});
    let propose = |token: u128| {
        let mut header = Header::new(InitPropose {
            cluster: ClusterId::new(token),
            token: Nonce::new(token),
            reserved: 0,
        });
        header.seal(&[]);
        bytes_of(&header, &[])
    };
    assert_eq!(world.hand_over(&propose(1)), None, "the first");
    assert_eq!(world.hand_over(&propose(1)), None, "the same once more");
    assert_eq!(
        world.hand_over(&propose(2)),
        Some(DropReason::WrongStatus),
        "another"
    );
    world.pass(4_900);
    assert_eq!(world.hand_over(&propose(2)), Some(DropReason::WrongStatus));
    world.pass(5_000);
    assert_eq!(
        world.hand_over(&propose(2)),
        None,
        "the first came to nothing"
    );
    // Its operator may still say that all had agreed, and so may the second's: each would win a part.
    world.pass(10_100);
    assert_eq!(
        world.hand_over(&propose(1)),
        Some(DropReason::WrongStatus),
        "a proposal that was left is not agreed to again"
    );
    assert_eq!(world.hand_over(&propose(3)), None, "a third is");
}

/// R7.1, R6.1: an earlier process in this place took part in the init, whose proposal comes to this one
/// late. Those who were formed with it have all recovered since, and nobody can tell it the word.
#[test]
fn an_agreement_that_comes_after_its_cluster_was_formed_keeps_nobody_from_recovering() {
    let mut world = World::blank(0, 3, |_| {});
    let mut propose = Header::new(InitPropose {
        cluster: CLUSTER,
        token: TOKEN,
        reserved: 0,
    });
    propose.seal(&[]);
    assert_eq!(world.hand_over(&bytes_of(&propose, &[])), None);
    let ping = |counter: u64| {
        let mut header = Header::new(message::Ping {
            status: message::PeerStatus::Normal as u8,
            ..bytemuck::Zeroable::zeroed()
        });
        header.set_cluster(CLUSTER);
        let incarnation = vsr_types::Incarnation { counter, random: 7 };
        header.set_sender(
            ReplicaIndex::new(1),
            vsr_types::MemberId::new(2),
            incarnation,
        );
        header.seal(&[]);
        bytes_of(&header, &[])
    };
    world.hand_over(&ping(0));
    assert!(
        matches!(world.replica.status, Status::Blank(_)),
        "who was formed with it will tell"
    );
    world.hand_over(&ping(1));
    assert_eq!(world.replica.status, Status::Recovering);
}

/// R7.1: the word that formed a cluster came a moment ago, and no peer has said yet what it is.
fn proposes_again_after_an_init(tune: impl Fn(&mut Settings)) -> Option<DropReason> {
    let mut world = World::new(0, 3, tune);
    let mut header = Header::new(InitPropose {
        cluster: ClusterId::new(9),
        token: Nonce::new(9),
        reserved: 0,
    });
    header.seal(&[]);
    world.hand_over(&bytes_of(&header, &[]))
}

#[test]
fn a_member_of_a_cluster_takes_part_in_no_other_init() {
    let dropped = proposes_again_after_an_init(|_| {});
    assert_eq!(dropped, Some(DropReason::WrongStatus));
}

#[test]
#[cfg(feature = "mutate")]
#[should_panic(expected = "a replica is blank only when it starts")]
fn a_member_that_took_part_in_another_init_would_forget_its_own() {
    proposes_again_after_an_init(|settings| {
        settings.mutant = Some(crate::Mutant::InitNotBlank);
    });
}

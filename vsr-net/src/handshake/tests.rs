//! Every wrong hello gets its reason; every right one is let in.

use super::*;
use bytemuck::Zeroable;
use vsr_types::message::Ping;

fn replica(index: u8) -> Identity {
    Identity {
        cluster_name: cluster_name_digest("orders"),
        configuration: configuration_digest(&["a:7000", "b:7000", "c:7000"]),
        replica: ReplicaIndex::new(index),
        replicas: 3,
        member: MemberId::new(100 + u128::from(index)),
        incarnation: Incarnation {
            counter: 4,
            random: 9,
        },
        cluster: ClusterId::new(77),
        view: View::new(5),
    }
}

fn judge(acceptor: &Identity, hello: Header) -> Result<Caller, Refusal> {
    acceptor.judge_hello(bytemuck::bytes_of(&hello))
}

fn hello_with(identity: &Identity, change: impl FnOnce(&mut Hello)) -> Header {
    let header = identity.hello(LinkKind::Peer, Some(ReplicaIndex::new(1)));
    let mut hello = *header.fields::<Hello>().expect("a hello");
    change(&mut hello);
    identity.seal(Header::new(hello))
}

#[test]
fn a_right_hello_is_welcome_and_the_welcome_is_believed() {
    let (acceptor, caller) = (replica(1), replica(2));
    let hello = caller.hello(LinkKind::Peer, Some(acceptor.replica));
    let seen = judge(&acceptor, hello).expect("welcome");
    assert_eq!(seen.kind, LinkKind::Peer);
    assert_eq!(seen.replica, caller.replica);
    assert_eq!(seen.incarnation, caller.incarnation);

    let welcome = acceptor.welcome(&seen, 1000);
    let greeting = caller
        .judge_answer(bytemuck::bytes_of(&welcome), Some(acceptor.replica))
        .expect("believed");
    assert_eq!(greeting.header.cluster(), acceptor.cluster);
    assert_eq!(greeting.header.view(), acceptor.view);
    assert_eq!(greeting.welcome.operation_size_max, 1000);
}

type Case = (&'static str, Header, RefuseReason, &'static str);

/// Hellos that say something wrong.
fn wrong_words(caller: &Identity) -> Vec<Case> {
    use RefuseReason as R;
    let mut damaged = caller.hello(LinkKind::Peer, None);
    bytemuck::bytes_of_mut(&mut damaged)[70] ^= 1;
    let mut large = caller.hello(LinkKind::Peer, None);
    large.seal(&[0; 8]);
    let ping = caller.seal(Header::new(Ping::zeroed()));
    let with = |change: fn(&mut Hello)| hello_with(caller, change);
    let other_name = |h: &mut Hello| h.cluster_name = cluster_name_digest("order");
    let too_old = |h: &mut Hello| (h.protocol_min, h.protocol_max) = (0, 0);
    vec![
        ("no hello", ping, R::NoHello, "no hello"),
        ("unknown kind", with(|h| h.kind = 9), R::NoHello, "no hello"),
        (
            "too new",
            with(|h| h.protocol_min = 99),
            R::Version,
            "version",
        ),
        ("too old", with(too_old), R::Version, "version"),
        ("name", with(other_name), R::ClusterName, "--cluster"),
        (
            "no name",
            with(|h| h.cluster_name = Digest::ZERO),
            R::ClusterName,
            "--cluster",
        ),
        (
            "list",
            with(|h| h.configuration ^= 1),
            R::Configuration,
            "--peers",
        ),
        (
            "target",
            with(|h| h.target = 0),
            R::WrongReplica,
            "not replica 0",
        ),
        ("damaged", damaged, R::BadFrame, "damaged"),
        ("with a body", large, R::BadFrame, "too large"),
    ]
}

/// Hellos of replicas that may not connect to replica 1.
fn wrong_replicas(caller: &Identity) -> Vec<Case> {
    use RefuseReason as R;
    let as_replica = |index| {
        let identity = Identity {
            replica: ReplicaIndex::new(index),
            ..*caller
        };
        identity.hello(LinkKind::Peer, None)
    };
    let elsewhere = Identity {
        cluster: ClusterId::new(78),
        ..*caller
    };
    vec![
        ("self", as_replica(1), R::BadReplica, "replica 1"),
        ("below", as_replica(0), R::BadReplica, "replica 0"),
        ("beyond", as_replica(3), R::BadReplica, "replica 3"),
        ("no replica", as_replica(255), R::BadReplica, "replica 255"),
        (
            "cluster",
            elsewhere.hello(LinkKind::Peer, None),
            R::BadFrame,
            "another cluster",
        ),
    ]
}

#[test]
fn each_wrong_field_has_its_own_refusal_and_sentence() {
    let (acceptor, caller) = (replica(1), replica(2));
    let cases = wrong_words(&caller)
        .into_iter()
        .chain(wrong_replicas(&caller));
    for (name, hello, reason, sentence) in cases {
        let refusal = judge(&acceptor, hello).expect_err(name);
        assert_eq!(refusal.reason, reason, "{name}");
        assert!(refusal.to_string().contains(sentence), "{name}: {refusal}");
        // What the caller reads is what the acceptor meant.
        let frame = refusal.frame();
        assert_eq!(
            caller.judge_answer(bytemuck::bytes_of(&frame), None),
            Err(refusal),
            "{name}"
        );
    }
}

#[test]
fn a_version_in_the_header_that_we_do_not_speak_is_a_version_refusal() {
    let mut hello = replica(2).hello(LinkKind::Peer, None);
    // The two bytes behind the size; then the checksum over bytes 12..128 again, by hand.
    bytemuck::bytes_of_mut(&mut hello)[124..126].copy_from_slice(&9_u16.to_le_bytes());
    let sealed = vsr_types::checksum(&bytemuck::bytes_of(&hello)[12..]);
    bytemuck::bytes_of_mut(&mut hello)[..4].copy_from_slice(&sealed.raw().to_le_bytes());
    let refusal = judge(&replica(1), hello).expect_err("too new");
    assert_eq!(
        refusal,
        Refusal::new(RefuseReason::Version, limits::PROTOCOL.into(), 9)
    );
}

/// R0.1, R0.2, R6.1: the crash vector decides about lives, message by message.
#[test]
fn every_life_of_a_replica_may_introduce_itself_and_says_which_process_it_is() {
    let restarted = MemberId::new(4711);
    for (counter, random) in [(0, 0), (3, 1), (4, 9), (5, 2)] {
        let caller = Identity {
            incarnation: Incarnation { counter, random },
            member: restarted,
            ..replica(2)
        };
        let seen = judge(&replica(1), caller.hello(LinkKind::Peer, None)).expect("welcome");
        assert_eq!(seen.incarnation, caller.incarnation);
        assert_eq!(seen.member, restarted);
    }
}

#[test]
fn a_blank_side_may_talk_to_any_cluster() {
    let blank = |index| Identity {
        cluster: ClusterId::ZERO,
        ..replica(index)
    };
    assert!(judge(&blank(1), replica(2).hello(LinkKind::Peer, None)).is_ok());
    assert!(judge(&replica(1), blank(2).hello(LinkKind::Peer, None)).is_ok());
}

#[test]
fn clients_need_no_list_and_only_the_name_they_state() {
    let acceptor = replica(1);
    for kind in [LinkKind::Client, LinkKind::Tool] {
        for name in [None, Some("orders")] {
            let hello = Identity::of_client(name).hello(kind, None);
            assert_eq!(judge(&acceptor, hello).expect("welcome").kind, kind);
        }
        let hello = Identity::of_client(Some("invoices")).hello(kind, None);
        assert_eq!(
            judge(&acceptor, hello).expect_err("name").reason,
            RefuseReason::ClusterName
        );
    }
}

#[test]
fn the_caller_checks_whom_it_reached() {
    use RefuseReason as R;
    let caller = replica(2);
    let seen = judge(&replica(1), caller.hello(LinkKind::Peer, None)).expect("welcome");
    let answer = |identity: &Identity, target| {
        let welcome = identity.welcome(&seen, 0);
        caller.judge_answer(
            bytemuck::bytes_of(&welcome),
            Some(ReplicaIndex::new(target)),
        )
    };
    let reason =
        |identity: &Identity, target| answer(identity, target).expect_err("refused").reason;
    assert!(answer(&replica(1), 1).is_ok());
    assert_eq!(reason(&replica(1), 0), R::WrongReplica);
    let other = Identity {
        cluster_name: cluster_name_digest("x"),
        ..replica(1)
    };
    assert_eq!(reason(&other, 1), R::ClusterName);
    assert_eq!(
        reason(
            &Identity {
                configuration: 1,
                ..replica(1)
            },
            1
        ),
        R::Configuration
    );
    assert_eq!(
        reason(
            &Identity {
                cluster: ClusterId::new(1),
                ..replica(1)
            },
            1
        ),
        R::BadFrame
    );
    let hello = caller.hello(LinkKind::Peer, None);
    let no_answer = caller.judge_answer(bytemuck::bytes_of(&hello), None);
    assert_eq!(no_answer.expect_err("no welcome").reason, R::BadFrame);
}

#[test]
fn digests_are_the_published_ones_and_tell_lists_apart() {
    // FNV-1a test vectors (draft-eastlake-fnv).
    assert_eq!(
        cluster_name_digest("").raw(),
        0x6c62272e07bb014262b821756295c58d
    );
    assert_eq!(
        cluster_name_digest("a").raw(),
        0xd228cb696f1a8caf78912b704e4a8964
    );
    assert_eq!(configuration_digest::<&str>(&[]), 0xcbf29ce484222325);
    let digest = configuration_digest(&["a:1", "b:2"]);
    assert_ne!(
        digest,
        configuration_digest(&["b:2", "a:1"]),
        "the order matters"
    );
    assert_ne!(
        digest,
        configuration_digest(&["a:1b:2"]),
        "so do the borders"
    );
    assert_eq!(
        digest,
        configuration_digest(&[" A:1", "B:2 "]),
        "letter case does not"
    );
}

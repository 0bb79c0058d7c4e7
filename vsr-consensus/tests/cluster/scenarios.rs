//! The scenarios of `docs/protocol.md` that concern normal operation, each under its name there.

use std::time::Duration;

use vsr_consensus::{DropReason, Event, HaltReason};
use vsr_types::message::{Commit, PeerStatus, Prepare, PrepareOk, RejectReason};
use vsr_types::{ClusterId, Incarnation, MemberId, Nonce, Op, ReplicaIndex, View};

use crate::support::{Answer, Cluster, Node, TICK, forge, forge_fields, header_of};

const R0: Node = Node::Replica(0);
const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A formed cluster with one session, at rest, all replicas at op 1.
fn at_rest(n: u8) -> Cluster {
    let mut cluster = Cluster::formed(n);
    cluster.register(1);
    cluster.pass(millis(20));
    cluster
}

/// Prepares one request and returns the frame that R0 sends to R1, which is taken off the link.
fn taken(cluster: &mut Cluster, client: u8, operation: &str) -> Vec<u8> {
    cluster.request_at(client, 0, operation);
    cluster.deliver(Node::Client(client), R0);
    let packet = cluster.net.link(R0, R1).queue.pop_back();
    packet.expect("the prepare left").bytes
}

fn executions(cluster: &Cluster, replica: usize) -> Vec<String> {
    let history = cluster.replicas[replica].machine().history();
    let text = |e: &crate::support::Executed| String::from_utf8_lossy(&e.operation).into_owned();
    history.iter().map(text).collect()
}

/// R0.1: what a life says that is not the present one decides nothing.
#[test]
fn s10_zombie_adopts_nothing_from_who_claims_to_be_it() {
    // Trace T10, as far as it goes without view changes: nobody can tell R1 who R1 is.
    let mut cluster = at_rest(3);
    let before = cluster.replicas[1].report().incarnation;
    cluster.tick(millis(100));
    let ping = cluster
        .net
        .link(R1, R0)
        .queue
        .pop_back()
        .expect("a ping")
        .bytes;
    let newer = forge(&ping, |header| {
        let incarnation = Incarnation {
            counter: 9,
            random: 1,
        };
        header.set_sender(ReplicaIndex::new(1), MemberId::new(77), incarnation);
    });
    assert_eq!(
        cluster.hand_over(R0, 1, &newer),
        Some(DropReason::NotAReplica)
    );
    assert_eq!(cluster.replicas[1].report().incarnation, before);
}

#[test]
fn s13_duplicate_start_view_changes_nothing_in_normal_operation() {
    let mut cluster = at_rest(3);
    let prepare = taken(&mut cluster, 1, "add 1");
    let old = header_of(&prepare);
    let mut header = vsr_types::Header::new(vsr_types::message::StartView {
        op: Op::ZERO,
        commit: Op::ZERO,
        nonce: Nonce::ZERO,
        reserved: 0,
    });
    header.set_cluster(cluster.id());
    header.set_sender(old.replica(), old.member(), old.incarnation());
    header.seal(&[]);
    for _ in 0..2 {
        let dropped = cluster.hand_over(R0, 1, bytemuck::bytes_of(&header));
        assert_eq!(dropped, Some(DropReason::Malformed));
    }
    assert_eq!(cluster.op(1), 1, "the log is as it was");
}

#[test]
fn s16_op_reuse_needs_the_same_entry() {
    // One op number, two entries: whoever holds the first refuses the second, and its acknowledgement
    // of the first is none of the second.
    let mut cluster = at_rest(3);
    let first = taken(&mut cluster, 1, "add 1");
    let second = forge_fields(&first, |prepare: &mut Prepare| {
        prepare.timestamp = prepare.timestamp.next();
    });
    assert_eq!(cluster.hand_over(R0, 1, &second), None);
    cluster.settle(1);
    assert_eq!(
        cluster.hand_over(R0, 1, &first),
        Some(DropReason::WrongIdentity)
    );
    cluster.deliver(R1, R0);
    assert_eq!(
        cluster.commit(0),
        1,
        "an acknowledgement of another entry commits nothing"
    );
    assert!(cluster.drops.contains(&(0, DropReason::WrongIdentity)));
}

/// R2.2 and R2.3: the next op only, and a cumulative acknowledgement only for what is held.
#[test]
fn s22_out_of_order_prepare_is_not_acknowledged() {
    // Trace T21: op 3 before op 2. An acknowledgement of 3 would speak for 2.
    let mut cluster = at_rest(3);
    cluster.register(2);
    cluster.pass(millis(20));
    let first = taken(&mut cluster, 1, "add 1");
    let second = taken(&mut cluster, 2, "add 2");
    assert_eq!(cluster.hand_over(R0, 1, &second), Some(DropReason::Gap));
    cluster.settle(1);
    let said = |cluster: &mut Cluster| {
        let queue = &cluster.net.link(R1, R0).queue;
        let oks = queue
            .iter()
            .filter_map(|p| header_of(&p.bytes).fields::<PrepareOk>().copied());
        oks.map(|ok| ok.op.raw()).collect::<Vec<_>>()
    };
    assert_eq!(said(&mut cluster), [0; 0], "nothing is acknowledged");
    assert_eq!(cluster.hand_over(R0, 1, &first), None);
    assert_eq!(cluster.hand_over(R0, 1, &second), None);
    cluster.settle(1);
    assert_eq!(said(&mut cluster), [4], "and then both at once");
    cluster.pass(millis(100));
    cluster.assert_equal();
}

/// R2.6.
#[test]
fn s23_commit_regress_executes_nothing_twice() {
    // Trace T22: a delayed prepare and a delayed heartbeat say less is committed than is known.
    let mut cluster = at_rest(3);
    let late = taken(&mut cluster, 1, "add 1");
    cluster.put(R0, 1, late.clone());
    cluster.run();
    cluster.tick(TICK);
    let queue = &cluster.net.link(R0, R1).queue;
    let heartbeat = queue
        .iter()
        .rfind(|p| header_of(&p.bytes).fields::<Commit>().is_some());
    let heartbeat = heartbeat.expect("a heartbeat").bytes.clone();
    cluster.run();
    for _ in 0..4 {
        cluster.ask(1, "add 10");
        cluster.pass(millis(20));
    }
    let committed = cluster.commit(1);
    cluster.hand_over(R0, 1, &late);
    cluster.hand_over(R0, 1, &heartbeat);
    let newer = forge_fields(&heartbeat, |commit: &mut Commit| commit.sequence += 1000);
    cluster.hand_over(R0, 1, &newer);
    cluster.settle(1);
    assert_eq!(
        cluster.commit(1),
        committed,
        "what is committed stays committed"
    );
    cluster.pass(millis(20));
    cluster.assert_equal();
    assert_eq!(
        executions(&cluster, 1),
        ["add 1", "add 10", "add 10", "add 10", "add 10"]
    );
}

/// R1.5, R1.6.
#[test]
fn s26_register_replay_evict_is_answered_never_met_with_silence() {
    // Trace T28.
    let mut cluster = Cluster::formed_with(3, |settings| settings.sessions = 2);
    cluster.register(1);
    let register = cluster.client(1).frame.clone();
    cluster.register(2);
    cluster.register(3);
    cluster.put(Node::Client(1), 0, register);
    cluster.run();
    cluster.request_at(1, 0, "add 1");
    cluster.run();
    let told = cluster.client(1).told().cloned();
    let Some(Answer::Reject { reason, detail, .. }) = told else {
        panic!("c1 was told {told:?}");
    };
    assert_eq!((reason, detail), (RejectReason::SessionTooLow, 4));
}

#[test]
fn s27_ring_wrap_slow_backup_refuses_before_it_forgets() {
    // Trace T24: R1 acknowledges but executes nothing; the ring holds eight ops.
    let mut cluster = Cluster::formed_with(3, |settings| {
        settings.pipeline = 2;
        settings.journal_slots = 8;
    });
    for client in 1..=4 {
        cluster.register(client);
    }
    cluster.pass(millis(20));
    let executed = cluster.applied(1);
    cluster.lazy[1] = true;
    for round in 0..10 {
        let client = 1 + round % 4;
        if !cluster.client(client).waiting {
            cluster.request_at(client, 0, "add 1");
        }
        // Its deadline comes once per prepare, and goes to the acknowledgement.
        for _ in 0..40 {
            cluster.advance(TICK / 20);
            for i in [0, 2] {
                cluster.settle(i);
            }
            cluster.turn();
        }
        let (op, applied) = (cluster.op(1), cluster.applied(1));
        assert!(
            op <= applied + 8,
            "R1 holds everything it has not executed: {op} and {applied}"
        );
    }
    assert!(
        cluster.op(0) > executed + 8,
        "the others go on: {}",
        cluster.op(0)
    );
    cluster.lazy[1] = false;
    cluster.pass(millis(100));
    cluster.assert_equal();
}

/// R2.4 and R2.5: a set of replicas makes a quorum, never a count of messages.
#[test]
fn s33_duplicate_ok_counted_once() {
    let mut cluster = at_rest(5);
    cluster.request_at(1, 0, "add 1");
    cluster.deliver(Node::Client(1), R0);
    cluster.deliver(R0, R1);
    let queue = &mut cluster.net.link(R1, R0).queue;
    let ok = queue.pop_back().expect("an acknowledgement");
    queue.extend([ok.clone(), ok.clone(), ok]);
    cluster.deliver(R1, R0);
    assert_eq!(cluster.commit(0), 1, "two of five are no quorum");
    cluster.run();
    assert_eq!(cluster.commit(0), 2);
}

/// R0.4, R6.7, R7.2.
#[test]
fn s35_total_loss_forms_no_cluster() {
    let mut cluster = at_rest(3);
    cluster.ask(1, "add 1");
    for i in 0..3_usize {
        let config = cluster.config[i].clone();
        cluster.replicas[i] = Cluster::replica(&config, 2, crate::support::Ledger::remembering());
    }
    cluster.pass(Duration::from_secs(2));
    for i in 0..3 {
        assert_eq!(
            cluster.status(i),
            PeerStatus::Blank,
            "R{i} waits for an operator"
        );
        assert!(cluster.replicas[usize::from(i)].cluster().is_zero());
    }
    // The old client's frame belongs to the old cluster: no blank replica takes it.
    let old = cluster.client(1).frame.clone();
    let frame = vsr_types::Frame::parse(&old, cluster.replicas[0].cluster());
    assert_eq!(frame.err(), Some(vsr_types::FrameError::Cluster));
}

/// Whether a replica takes part in its first life, as one that formed the cluster does.
fn is_founder(cluster: &Cluster, replica: usize) -> bool {
    let report = cluster.replicas[replica].report();
    report.status == PeerStatus::Normal && report.incarnation.counter == 0
}

/// R7.1.
#[test]
fn s36_bootstrap_race_leaves_the_restarted_one_out() {
    let mut cluster = Cluster::new(3, |_| {});
    let (id, token) = (ClusterId::new(5), Nonce::new(6));
    let nonces = cluster.propose(id, token);
    // R1 restarts between its ack and the commit: another nonce, another process.
    let config = cluster.config[1].clone();
    cluster.replicas[1] = Cluster::replica(&config, 2, crate::support::Ledger::remembering());
    cluster.commit_init(id, token, nonces);
    cluster.pass(millis(500));
    assert_eq!(cluster.status(0), PeerStatus::Normal);
    assert!(
        !is_founder(&cluster, 1),
        "the relayed commit is not for this process: it recovers"
    );
    assert_eq!(cluster.status(2), PeerStatus::Normal);
}

#[test]
fn s36_bootstrap_race_counts_the_nonce_and_not_the_word() {
    // The restarted one hears the proposal again, and agrees; but what is committed names the nonce
    // of the process that is gone.
    let mut cluster = Cluster::new(3, |_| {});
    let (id, token) = (ClusterId::new(5), Nonce::new(6));
    let nonces = cluster.propose(id, token);
    let config = cluster.config[1].clone();
    cluster.replicas[1] = Cluster::replica(&config, 2, crate::support::Ledger::remembering());
    let again = cluster.propose(id, token);
    assert_ne!(nonces, again);
    cluster.commit_init(id, token, nonces);
    cluster.pass(millis(500));
    assert!(!is_founder(&cluster, 1));
    assert_eq!(cluster.status(0), PeerStatus::Normal);
}

#[test]
fn s36b_a_replica_that_missed_the_commit_is_told_by_its_peers() {
    let mut cluster = Cluster::new(3, |_| {});
    let (id, token) = (ClusterId::new(5), Nonce::new(6));
    let nonces = cluster.propose(id, token);
    cluster.stopped[2] = true;
    cluster.commit_init(id, token, nonces);
    cluster.net.link(Node::Tool, R2).queue.clear();
    cluster.stopped[2] = false;
    assert_eq!(cluster.status(2), PeerStatus::Blank);
    cluster.pass(millis(300));
    assert_eq!(cluster.status(2), PeerStatus::Normal);
    assert_eq!(cluster.replicas[2].cluster(), id);
}

/// R7.1; R4.4: that a peer belongs to a cluster is known from its pings.
#[test]
fn s37_bootstrap_refused_while_anybody_belongs_to_a_cluster() {
    let mut cluster = at_rest(3);
    let config = cluster.config[2].clone();
    cluster.replicas[2] = Cluster::replica(&config, 2, crate::support::Ledger::remembering());
    cluster.pass(millis(300));
    let nonces = cluster.propose(ClusterId::new(99), Nonce::new(98));
    assert!(
        nonces.nonces.iter().all(|nonce| nonce.is_zero()),
        "nobody agrees: {nonces:?}"
    );
    for replica in &cluster.replicas {
        assert_ne!(replica.cluster(), ClusterId::new(99));
    }
    assert!(!is_founder(&cluster, 2));
    assert_eq!(cluster.replicas[0].cluster(), cluster.id());
}

/// R3.3.
#[test]
fn s38_bad_hop_is_left_out_in_time() {
    // R1 appends and acknowledges but its link to R2 loses everything.
    let mut cluster = at_rest(3);
    cluster.net.link(R1, R2).cut = true;
    cluster.net.link(R1, R0).cut = true;
    cluster.request_at(1, 0, "add 1");
    let start = cluster.now.monotonic;
    while cluster.client(1).waiting {
        cluster.pass(millis(1));
        let late = cluster.now.monotonic.since(start);
        assert!(late < millis(150), "committed without R1 after {late:?}");
    }
    cluster.pass(millis(100));
    assert!(cluster.is_suspect(1), "R1 does not acknowledge");
    let route: Vec<u8> = cluster.replicas[0]
        .report()
        .route
        .hops()
        .map(ReplicaIndex::raw)
        .collect();
    assert!(
        !route.contains(&1),
        "the next prepare does not go through R1: {route:?}"
    );
    // The links mend: R1 is in the chain again, and nobody is a suspect.
    cluster.net.heal();
    cluster.pass(Duration::from_secs(1));
    let route: Vec<u8> = cluster.replicas[0]
        .report()
        .route
        .hops()
        .map(ReplicaIndex::raw)
        .collect();
    assert_eq!(route, [1, 2]);
    cluster.assert_equal();
}

/// R3.2.
#[test]
fn s39_tail_ack_inference_does_not_happen() {
    // Trace T7b, n = 5: R2 acknowledges what came to it through R1; R1 did not keep it.
    let mut cluster = at_rest(5);
    let prepare = taken(&mut cluster, 1, "add 1");
    // R1 passes it on without keeping it: R2 gets it, R1 does not, nobody behind R2 either.
    cluster.net.link(R2, Node::Replica(3)).cut = true;
    cluster.put(R1, 2, prepare);
    cluster.run();
    assert_eq!(cluster.op(2), 2);
    assert_eq!(cluster.commit(0), 1, "R0 and R2 hold it: two of five");
}

#[test]
fn s43_deaf_backup_disturbs_nobody() {
    let mut cluster = at_rest(3);
    for from in [R0, R1] {
        cluster.net.link(from, R2).cut = true;
    }
    for _ in 0..5 {
        assert_ne!(cluster.ask(1, "add 1"), "");
        cluster.pass(millis(200));
    }
    for i in 0..3_usize {
        let report = cluster.replicas[i].report();
        assert_eq!(
            (report.view, report.primary),
            (View::ZERO, ReplicaIndex::new(0))
        );
    }
    cluster.net.heal();
    cluster.pass(millis(500));
    cluster.assert_equal();
}

#[test]
fn s49_read_isolated_primary_gives_no_answer() {
    let mut cluster = at_rest(3);
    cluster.ask(1, "add 5");
    for peer in [R1, R2] {
        cluster.net.set_cut(R0, peer, true);
    }
    cluster.query_at(1, 0, "total");
    cluster.pass(Duration::from_secs(1));
    assert!(
        cluster.client(1).reading,
        "it cannot know whether it still leads"
    );
    // One way is not enough: its question arrives, the answers do not.
    cluster.net.link(R0, R1).cut = false;
    cluster.pass(Duration::from_secs(1));
    assert!(cluster.client(1).reading);
    cluster.net.link(R1, R0).cut = false;
    cluster.pass(millis(50));
    assert_eq!(cluster.client(1).text(), "5");
}

#[test]
fn s49b_an_answer_to_an_older_heartbeat_proves_nothing() {
    let mut cluster = at_rest(3);
    // The heartbeat before the read is answered late, during the read.
    cluster.tick(TICK);
    for backup in [R1, R2] {
        cluster.deliver(R0, backup);
    }
    let old: Vec<_> = [1_u8, 2]
        .map(|i| cluster.net.link(Node::Replica(i), R0).queue.clone())
        .into();
    for backup in [R1, R2] {
        cluster.net.set_cut(R0, backup, true);
    }
    cluster.query_at(1, 0, "total");
    cluster.deliver(Node::Client(1), R0);
    for (i, packets) in old.into_iter().enumerate() {
        for packet in packets {
            cluster.hand_over(Node::Replica(i as u8 + 1), 0, &packet.bytes);
        }
    }
    cluster.settle(0);
    cluster.run();
    assert!(
        cluster.client(1).reading,
        "nobody has answered since the read began"
    );
}

/// R0.3.
#[test]
fn s56_cv_poison_is_rejected() {
    let mut cluster = at_rest(3);
    let prepare = taken(&mut cluster, 1, "add 1");
    let huge = u64::MAX / 2;
    let forgeries: [(&str, Vec<u8>); 5] = [
        ("view", forge(&prepare, |h| h.set_view(View::new(huge)))),
        (
            "epoch",
            forge(&prepare, |h| h.set_epoch(vsr_types::Epoch::new(huge))),
        ),
        (
            "op",
            forge_fields(&prepare, |p: &mut Prepare| p.op = Op::new(huge)),
        ),
        (
            "commit",
            forge_fields(&prepare, |p: &mut Prepare| p.commit = Op::new(huge)),
        ),
        ("counter", {
            let (replica, member) = (header_of(&prepare).replica(), header_of(&prepare).member());
            let incarnation = Incarnation {
                counter: huge,
                random: 0,
            };
            forge(&prepare, |h| h.set_sender(replica, member, incarnation))
        }),
    ];
    for (what, bytes) in forgeries {
        let dropped = cluster.hand_over(R0, 1, &bytes);
        assert_eq!(dropped, Some(DropReason::ImplausibleNumber), "{what}");
    }
    cluster.put(R0, 1, prepare);
    cluster.run();
    assert_eq!(
        cluster.client(1).text(),
        "1",
        "and nothing was learnt from them"
    );
}

/// R4.2.
#[test]
fn s57_digest_divergence_stops_the_minority() {
    for minority in 0..3_u8 {
        let mut cluster = at_rest(3);
        cluster.replicas[usize::from(minority)]
            .machine()
            .flip
            .set(true);
        for _ in 0..3 {
            cluster.request_at(1, 0, "add 1");
            cluster.pass(millis(150));
            cluster.client(1).waiting = false;
        }
        for i in 0..3_u8 {
            let report = cluster.replicas[usize::from(i)].report();
            let is_halted = matches!(report.halted, Some(HaltReason::Divergence { .. }));
            assert_eq!(is_halted, i == minority, "R{i} when R{minority} differs");
        }
    }
}

#[test]
fn s58_forged_progress_keeps_nobody_alive() {
    // R4.1, without elections yet: the heard-of time moves with new heartbeats only.
    let mut cluster = at_rest(3);
    cluster.tick(TICK);
    let queue = &cluster.net.link(R0, R1).queue;
    let heartbeat = queue
        .iter()
        .rfind(|p| header_of(&p.bytes).fields::<Commit>().is_some());
    let heartbeat = heartbeat.expect("a heartbeat").bytes.clone();
    cluster.deliver(R0, R1);
    let heard = |cluster: &Cluster| cluster.replicas[1].report().peers[0].heard;
    let before = heard(&cluster);
    cluster.advance(millis(50));
    assert_eq!(
        cluster.hand_over(R0, 1, &heartbeat),
        Some(DropReason::Duplicate)
    );
    assert_eq!(
        heard(&cluster),
        before,
        "an old heartbeat says nothing about now"
    );
}

#[test]
fn requests_to_backups_are_passed_on_once_and_never_in_circles() {
    let mut cluster = at_rest(3);
    cluster.request_at(1, 2, "add 3");
    cluster.run();
    assert_eq!(cluster.client(1).text(), "3");
    assert_eq!(cluster.replicas[2].counters().of(Event::PassedOn), 1);
    // Passed on to one that does not lead: it says so instead of passing it on again.
    let frame = cluster.client(1).frame.clone();
    let mut header = header_of(&frame);
    header.set_route(vsr_types::Route::PASSED_ON);
    let bytes = [
        bytemuck::bytes_of(&header),
        &frame[vsr_types::HEADER_SIZE..],
    ]
    .concat();
    assert_eq!(
        cluster.hand_over(R2, 1, &bytes),
        Some(DropReason::NotPrimary)
    );
    assert_eq!(cluster.replicas[1].counters().of(Event::PassedOn), 0);
}

#[test]
fn a_flood_is_refused_and_the_rest_is_served() {
    // N8: more sessions than the open batch holds, and no acknowledgement comes.
    let mut cluster = Cluster::formed_with(3, |settings| {
        settings.pipeline = 1;
        settings.batch_size_max = 4096;
    });
    for client in 0..40 {
        cluster.register(client);
    }
    cluster.stopped[1] = true;
    cluster.stopped[2] = true;
    let operation = "x".repeat(200);
    for client in 0..40 {
        cluster.request_at(client, 0, &operation);
    }
    cluster.run();
    let is_busy = |client: &&crate::support::Client| {
        matches!(
            client.told(),
            Some(Answer::Reject {
                reason: RejectReason::Busy,
                ..
            })
        )
    };
    let busy = cluster.clients.iter().filter(is_busy).count();
    assert!((1..40).contains(&busy), "{busy} of 40 were told to wait");
    cluster.stopped.fill(false);
    cluster.pass(millis(300));
    for client in 0..40 {
        if cluster.client(client).waiting {
            cluster.retry_at(client, 0);
        }
        cluster.pass(millis(2));
    }
    cluster.pass(millis(50));
    let waiting = (0..40).filter(|&c| cluster.clients[c].waiting).count();
    assert_eq!(waiting, 0, "everybody is served in the end");
    cluster.assert_equal();
    assert_eq!(cluster.count(0), 40, "each once");
}

#[test]
fn a_prepare_that_follows_another_entry_is_refused() {
    // R2.2: the hash chain. Same primary, same op, but made after an op 1 that R1 does not hold.
    let mut cluster = at_rest(3);
    let prepare = taken(&mut cluster, 1, "add 1");
    let other = forge_fields(&prepare, |prepare: &mut Prepare| {
        prepare.parent.checksum = vsr_types::Checksum::new(prepare.parent.checksum.raw() ^ 1);
    });
    assert_eq!(
        cluster.hand_over(R0, 1, &other),
        Some(DropReason::WrongParent)
    );
    let earlier = forge_fields(&prepare, |prepare: &mut Prepare| {
        prepare.timestamp = vsr_types::Timestamp::from_nanos(1);
    });
    assert_eq!(
        cluster.hand_over(R0, 1, &earlier),
        Some(DropReason::Malformed)
    );
    assert_eq!(cluster.op(1), 1, "nothing was appended");
    assert_eq!(cluster.hand_over(R0, 1, &prepare), None);
}

#[test]
fn a_read_waits_for_the_op_that_moves_the_clock() {
    // N10: after a quiet time a read has an empty batch prepared. A quorum answers the round's
    // heartbeat before it holds that batch: that proves who leads, not what time it is.
    let mut cluster = at_rest(3);
    cluster.ask(1, "add 5");
    cluster.pass(millis(50));
    cluster.query_at(1, 0, "total");
    cluster.deliver(Node::Client(1), R0);
    let is_prepare =
        |packet: &crate::support::Packet| header_of(&packet.bytes).fields::<Prepare>().is_some();
    cluster
        .net
        .link(R0, R1)
        .queue
        .retain(|packet| !is_prepare(packet));
    cluster.run();
    assert_eq!(
        (cluster.op(0), cluster.commit(0)),
        (3, 2),
        "nobody else holds op 3"
    );
    assert!(
        cluster.client(1).reading,
        "the round is won, the time is not known yet"
    );
    cluster.pass(millis(60));
    assert_eq!(cluster.client(1).op_of_last(), Some(Op::new(3)));
    assert_eq!(cluster.client(1).text(), "5");
}

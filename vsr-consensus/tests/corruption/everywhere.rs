//! The same piece, damaged at several replicas, and at all of them (R14.2, R14.4).

use std::time::Duration;

use super::serving::ask;
use super::support::Cluster;
use super::{cluster, count, heal};
use vsr_consensus::{Event, Finding, FindingKind, FoundBy, Place, Remedy};
use vsr_types::Op;

/// The last finding of a replica.
fn finding(cluster: &Cluster, replica: usize) -> Finding {
    let mut findings = cluster.replicas[replica].findings();
    findings.next().expect("a finding")
}

/// Lets time go by until every replica says of its damage that nobody can repair it.
fn all_say_so(cluster: &mut Cluster) -> bool {
    cluster.wait(Duration::from_secs(120), |cluster| {
        let says_so = |r: &vsr_consensus::Replica<_>| r.scrub_report().is_nobodys;
        cluster.replicas.iter().all(says_so)
    })
}

fn bad_at_two_of_three(sound: usize, by_use: bool) -> Cluster {
    let mut cluster = cluster();
    cluster.register(0);
    assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
    for bad in (0..3).filter(|&bad| bad != sound) {
        cluster.replicas[bad].machine_mut().damage(3 + 5 * bad);
    }
    let began = cluster.now.monotonic;
    if by_use {
        assert_eq!(ask(&mut cluster, 0, "add 5"), "12", "R{sound} is sound");
    }
    heal(&mut cluster);
    let took = cluster.now.monotonic.since(began);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let total = if by_use { "12" } else { "7" };
    assert_eq!(ask(&mut cluster, 0, "add 0"), total);
    cluster.pass(Duration::from_millis(100));
    cluster.assert_equal();
    cluster
}

/// R14.2: different bits of one chunk, at two replicas of three.
#[test]
fn one_chunk_that_is_bad_at_two_of_three_replicas_is_repaired_from_the_third_while_serving() {
    for sound in 0..3 {
        for by_use in [false, true] {
            bad_at_two_of_three(sound, by_use);
        }
    }
}

/// R14.2: two replicas are bad in one chunk, and nobody takes it from the other.
pub(super) fn damage_is_given_to_nobody() {
    for sound in 0..3 {
        let cluster = bad_at_two_of_three(sound, true);
        for replica in 0..3 {
            assert_eq!(
                count(&cluster, replica, Event::TransfersFailed),
                0,
                "R{replica}"
            );
        }
    }
}

#[test]
fn damage_that_is_known_is_given_to_nobody() {
    damage_is_given_to_nobody();
}

pub(super) fn a_chunk_bad_everywhere() {
    let mut cluster = cluster();
    cluster.register(0);
    assert_eq!(ask(&mut cluster, 0, "add 7"), "7");
    for bad in 0..3 {
        cluster.replicas[bad].machine_mut().damage(3 + 5 * bad);
    }
    assert!(all_say_so(&mut cluster), "every replica says so");
    for replica in 0..3 {
        let found = finding(&cluster, replica);
        assert_eq!(
            (found.kind, found.by),
            (FindingKind::State, FoundBy::Scrubber)
        );
        assert_eq!((found.op, found.remedy), (Op::new(2), Remedy::Nobody));
        let report = cluster.replicas[replica].scrub_report();
        assert_eq!(report.damaged_chunk, Some(found.place));
        // It keeps the rest of what it has, and asks again later.
        assert!(cluster.wait(Duration::from_secs(5), |c| c.replicas[replica].has_state()));
    }
    // What nobody knows any more nobody answers.
    cluster.request_at(0, 0, "add 1");
    for to in 0..100 {
        cluster.pass(Duration::from_millis(50));
        cluster.retry_at(0, to % 3);
    }
    assert!(cluster.client(0).waiting, "nothing is guessed");
    let changes = count(&cluster, 0, Event::ViewsLeft);
    cluster.pass(Duration::from_secs(30));
    let changes = count(&cluster, 0, Event::ViewsLeft) - changes;
    assert!(changes < 60, "{changes} view changes in half a minute");
}

/// R14.4: it is said, with op and place, everybody keeps what is left, and views do not change for ever.
#[test]
fn a_chunk_that_is_bad_everywhere_is_reported_and_nothing_is_guessed() {
    a_chunk_bad_everywhere();
}

/// Two sessions' replies; the longer one of client 0 is bad at every replica.
fn with_a_bad_reply() -> Cluster {
    let mut cluster = cluster();
    cluster.register(0);
    cluster.register(1);
    assert_eq!(ask(&mut cluster, 1, "add 7"), "7");
    assert_eq!(ask(&mut cluster, 0, "big 600"), "b".repeat(600));
    cluster.pass(Duration::from_millis(100));
    let before = |cluster: &Cluster, replica: u8| count(cluster, replica, Event::DamagedStates);
    for replica in 0..3_u8 {
        // Where the reply lies follows from what was executed; it fills its block.
        for block in 0..8 {
            let at = (block * 256 + 20 + usize::from(replica)) * 8;
            assert!(cluster.replicas[usize::from(replica)].flip(Place::Replies, at));
        }
        let seen = cluster.wait(Duration::from_secs(1), |c| before(c, replica) > 0);
        assert!(seen, "R{replica} has noticed");
    }
    cluster
}

/// R14.4.
#[test]
fn a_reply_that_is_bad_everywhere_costs_its_own_client_only_and_ends_with_its_next_request() {
    let mut cluster = with_a_bad_reply();
    assert!(all_say_so(&mut cluster), "every replica says so");
    let found = finding(&cluster, 1);
    assert_eq!(
        (found.kind, found.remedy),
        (FindingKind::Sessions, Remedy::Nobody)
    );
    assert_eq!(
        ask(&mut cluster, 1, "add 1"),
        "8",
        "everybody else is served"
    );
    // Who asks for what is bad is told nothing.
    let told = cluster.client(0).answers.len();
    for to in 0..3 {
        cluster.retry_at(0, to);
        cluster.pass(Duration::from_millis(50));
    }
    assert_eq!(cluster.client(0).answers.len(), told);
    // Its next answer takes that place: the damage is over.
    assert_eq!(ask(&mut cluster, 0, "add 1"), "9");
    heal(&mut cluster);
    for replica in 0..3 {
        let report = cluster.replicas[replica].scrub_report();
        assert_eq!((report.damaged_state, report.is_nobodys), (None, false));
        let last = finding(&cluster, replica).remedy;
        assert!(last.is_sound(), "R{replica}: {last:?}");
    }
    cluster.assert_equal();
}

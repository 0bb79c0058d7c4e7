//! Readiness and status of made-up replicas.

use super::*;

use bytemuck::Zeroable;
use vsr_types::body::DigestReport;
use vsr_types::{ClusterId, Epoch, Incarnation, Route, View, limits};

/// Ten seconds after the clock's start.
const NOW: Instant = Instant::from_nanos(10_000_000_000);

fn config(replica: u8) -> Config {
    Config::new("test", "a:1,b:1,c:1", replica).expect("valid")
}

/// A healthy replica in a view that R0 leads; everybody was heard of just now.
fn healthy(replica: u8) -> Report {
    let peer = PeerReport {
        heard: Some(NOW),
        status: Some(PeerStatus::Normal),
        op: Op::new(7),
        applied: Op::new(7),
        round_trip_ns: 50_000,
        ..PeerReport::default()
    };
    Report {
        cluster: ClusterId::new(42),
        replica: ReplicaIndex::new(replica),
        replicas: 3,
        incarnation: Incarnation {
            counter: 1,
            random: 2,
        },
        status: PeerStatus::Normal,
        halted: None,
        op_max: vsr_types::OpMax::new(limits::NUMBER_MAX).expect("not zero"),
        on_op_max: vsr_consensus::OnOpMax::Halt,
        epoch: Epoch::ZERO,
        ops_left: limits::NUMBER_MAX,
        warning: vsr_consensus::EpochWarning::None,
        archive_due: None,
        view: View::ZERO,
        primary: ReplicaIndex::new(0),
        op: Op::new(7),
        commit: Op::new(7),
        applied: Op::new(7),
        tail: Op::new(1),
        digest: DigestReport::zeroed(),
        sessions: 2,
        in_flight: 0,
        route: Route::through([ReplicaIndex::new(1), ReplicaIndex::new(2)]),
        peers: [peer; limits::REPLICAS_MAX],
    }
}

fn around<'a>(config: &'a Config, report: &Report) -> Surroundings<'a> {
    let mut progress = Progress::default();
    progress.observe(report, NOW);
    Surroundings {
        config,
        now: NOW,
        uptime: Duration::from_secs(10),
        memory: 1000,
        progress,
        links: Vec::new(),
        recovery: RecoveryReport::default(),
        transfer: None,
        recovered: None,
        view_changes: 0,
        divergence: None,
        restarts_in_place: 0,
        archives: crate::archive::Report::default(),
        integrity: Integrity::default(),
    }
}

fn reason(change: impl FnOnce(&mut Report)) -> String {
    let mut report = healthy(0);
    change(&mut report);
    let config = config(0);
    readiness(&report, &around(&config, &report))
        .err()
        .unwrap_or_default()
}

#[test]
fn a_healthy_replica_is_ready_whether_it_leads_or_not() {
    for replica in 0..3 {
        let config = config(replica);
        let report = healthy(replica);
        assert_eq!(readiness(&report, &around(&config, &report)), Ok(()));
    }
}

#[test]
fn every_reason_against_is_told() {
    assert!(reason(|r| r.status = PeerStatus::Blank).contains("vsr-cli init"));
    assert!(reason(|r| r.status = PeerStatus::Recovering).contains("recovering"));
    assert!(reason(|r| r.status = PeerStatus::ViewChange).contains("view-change"));
    assert!(reason(|r| r.halted = Some(HaltReason::OpMax)).contains("--op-max"));
    let divergence = HaltReason::Divergence { op: Op::new(9) };
    assert!(reason(|r| r.halted = Some(divergence)).contains("after op 9"));
    let silent = |r: &mut Report| r.peers = [PeerReport::default(); limits::REPLICAS_MAX];
    assert!(
        reason(silent).contains("no quorum: hears 0 of 2"),
        "{}",
        reason(silent)
    );
    assert_eq!(
        reason(|r| r.peers[1].heard = None),
        "",
        "one of three may be away"
    );
    assert!(reason(|r| r.primary = ReplicaIndex::new(7)).contains("primary R7"));
}

#[test]
fn a_backup_that_does_not_hear_its_primary_is_not_ready() {
    let config = config(1);
    let mut report = healthy(1);
    report.peers[0].heard = Some(Instant::from_nanos(8_000_000_000));
    let reason = readiness(&report, &around(&config, &report)).expect_err("two seconds of silence");
    assert!(
        reason.contains("has not heard from the primary R0"),
        "{reason}"
    );
}

#[test]
fn a_recovering_replica_says_how_far_it_is() {
    let config = config(1);
    let mut report = healthy(1);
    report.status = PeerStatus::Recovering;
    let asking = Surroundings {
        recovery: RecoveryReport {
            phase: RecoveryPhase::Asking,
            replies: 1,
            needed: 2,
            since: Instant::from_nanos(NOW.as_nanos() - 250_000_000),
            ..RecoveryReport::default()
        },
        ..around(&config, &report)
    };
    let reason = readiness(&report, &asking).expect_err("it does not take part");
    assert_eq!(reason, "recovering: 1 of 2 replicas have answered");
    let told = status(&report, &asking).recovery.expect("it recovers");
    assert_eq!((told.phase.as_str(), told.target_op), ("asking", None));
    assert!((told.seconds - 0.25).abs() < 1e-9, "{told:?}");
    let restoring = Surroundings {
        recovery: RecoveryReport {
            phase: RecoveryPhase::Restoring,
            target: Op::new(90),
            held: Op::new(30),
            ..asking.recovery
        },
        ..asking
    };
    let reason = readiness(&report, &restoring).expect_err("it does not take part");
    assert_eq!(reason, "recovering: holds op 30 of 90");
    let fetching = Surroundings {
        transfer: Some(TransferReport {
            donor: ReplicaIndex::new(2),
            pass: 1,
            held: false,
            chunks: Some(64),
            looked_at: 16,
            taken: 8,
            bytes: 512 << 10,
            elapsed: Duration::from_millis(20),
        }),
        ..restoring
    };
    let reason = readiness(&report, &fetching).expect_err("it does not take part");
    for part in ["16 of 64 chunks", "from R2", "512 KiB"] {
        assert!(reason.contains(part), "{reason}");
    }
    let told = status(&report, &fetching).recovery.expect("it recovers");
    assert_eq!(told.transfer.map(|transfer| transfer.donor), Some(2));
}

#[test]
fn a_lost_quorum_is_said_first_by_whoever_notices() {
    for status_now in [
        PeerStatus::Normal,
        PeerStatus::ViewChange,
        PeerStatus::Recovering,
    ] {
        let config = config(1);
        let mut report = healthy(1);
        report.status = status_now;
        let lost = Surroundings {
            recovery: RecoveryReport {
                quorum_lost: true,
                ..RecoveryReport::default()
            },
            ..around(&config, &report)
        };
        let reason = readiness(&report, &lost).expect_err("nothing is served");
        assert!(
            reason.starts_with("QUORUM_LOST: fewer than 2 of 3"),
            "{reason}"
        );
        assert!(status(&report, &lost).quorum_lost);
    }
}

#[test]
fn an_op_that_waits_too_long_for_its_commit_is_noticed_and_an_idle_replica_is_not() {
    let config = config(0);
    let mut report = healthy(0);
    let mut progress = Progress::default();
    progress.observe(&report, Instant::ZERO);
    let ready = |report: &Report, progress| {
        readiness(
            report,
            &Surroundings {
                progress,
                ..around(&config, report)
            },
        )
    };
    assert_eq!(
        ready(&report, progress),
        Ok(()),
        "idle for ten seconds, and well"
    );
    report.op = Op::new(8);
    progress.observe(&report, NOW);
    let reason = ready(&report, progress).expect_err("op 8 has waited for ten seconds");
    assert!(reason.contains("op 8 has waited"), "{reason}");
    report.commit = Op::new(8);
    progress.observe(&report, NOW);
    assert_eq!(ready(&report, progress), Ok(()));
}

#[test]
fn a_status_survives_the_way_through_json() {
    let config = config(0);
    let report = healthy(0);
    let status = status(&report, &around(&config, &report));
    assert_eq!((status.role.as_str(), status.ready), ("primary", true));
    assert_eq!(status.chain, [1, 2]);
    assert_eq!(status.address, "a:1");
    assert_eq!(status.peers.len(), 2);
    assert_eq!(status.peers[0].round_trip_us, Some(50.0));
    let json = serde_json::to_string(&status).expect("plain data");
    assert_eq!(
        serde_json::from_str::<Status>(&json).expect("the same"),
        status
    );
}

/// Memory with one damaged chunk that was found by the scrubber.
fn damaged() -> Integrity {
    use vsr_consensus::{Finding, FindingKind, FindingTotals, FoundBy, Remedy, ScrubReport};
    let at = Instant::from_nanos(NOW.as_nanos() - 2_000_000_000);
    Integrity {
        scrub: ScrubReport {
            damaged_since: Some(at),
            ..ScrubReport::default()
        },
        findings: vec![Finding {
            number: 1,
            kind: FindingKind::State,
            place: 7,
            op: Op::new(12),
            by: FoundBy::Scrubber,
            at,
            remedy: Remedy::Nobody,
            ended_at: NOW,
        }],
        totals: vec![(
            FindingKind::State,
            FindingTotals {
                by_scrubber: 1,
                unrepairable: 1,
                ..FindingTotals::default()
            },
        )],
    }
}

/// R14.3, R14.4.
#[test]
fn damage_is_told_and_makes_a_replica_unready_only_while_it_stops_it() {
    let config = config(0);
    let report = healthy(0);
    let mut around = Surroundings {
        integrity: damaged(),
        ..around(&config, &report)
    };
    let told = status(&report, &around);
    let damage = told.damage.expect("damage");
    assert!(told.ready && damage.unrepairable && !damage.blocks);
    assert_eq!(damage.places.len(), 1);
    assert_eq!(told.scrub.last_finding.expect("one").place, "chunk 7");
    around.integrity.scrub.is_blocked = true;
    let reason = readiness(&report, &around).expect_err("it executes nothing");
    assert!(reason.contains("bad on every replica"), "{reason}");
}

#[test]
fn damage_is_in_the_metrics() {
    let config = config(0);
    let report = healthy(0);
    let around = Surroundings {
        integrity: damaged(),
        ..around(&config, &report)
    };
    let mut samples = crate::metrics::Samples::default();
    crate::metrics::replica(&mut samples, &report, &around);
    let text = samples.text();
    for line in [
        "vsr_damaged 1",
        "vsr_damaged_blocks 0",
        "vsr_damaged_unrepairable 1",
        "vsr_damage_age_seconds 2.0",
        "vsr_damage_total{what=\"state\",outcome=\"found_by_scrubber\"} 1",
        "vsr_damage_total{what=\"state\",outcome=\"unrepairable\"} 1",
        "vsr_scrub_rounds_total 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}

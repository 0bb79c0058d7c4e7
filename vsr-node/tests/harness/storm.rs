//! Everything at once: all workloads, all faults, until enough of both has happened.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, small};
use crate::faults::Trouble;
use crate::summary::{Summary, say};
use crate::work::{Load, Mix};
use crate::{POWERS, run, setting};

/// How long a short storm lasts, without what comes before and after.
const SECONDS: u64 = 25;
/// What a run should see, if the machine can do it in twice the time.
const FAULTS: u64 = 200;
const OPS: u64 = 1_000_000;
/// How long one cluster lives in a long storm: histories are kept in memory until they are checked.
const ROUND: u64 = 45;

/// What the replicas have done about it all, for the report.
const COUNTED: [&str; 7] = [
    "transfers_finished",
    "transfers_failed",
    "repairs_given",
    "suspected",
    "rejoined",
    "digests_equal",
    "digests_different",
];

#[test]
fn storm() {
    let seconds = setting("VSR_HARNESS_SECONDS").unwrap_or(SECONDS);
    let ops = setting("VSR_HARNESS_OPS").unwrap_or(0);
    let limit = Duration::from_secs(seconds * 4 + 120 + ops / 1000);
    run("storm::storm", limit, |seed| async move {
        let mut summary = Summary::default();
        let began = Instant::now();
        let mut round = 0;
        loop {
            let left = Duration::from_secs(seconds).saturating_sub(began.elapsed());
            let time = left.clamp(Duration::from_secs(5), Duration::from_secs(ROUND));
            one_round(seed.wrapping_add(round), time, &mut summary).await;
            round += 1;
            let is_long_enough =
                began.elapsed() + Duration::from_secs(4) > Duration::from_secs(seconds);
            if is_long_enough && summary.total().answered >= ops {
                break;
            }
        }
        say(&summary.text());
        judge(&summary, FAULTS.min(seconds * 4));
    });
}

async fn one_round(seed: u64, time: Duration, summary: &mut Summary) {
    let replicas = if seed % 4 == 3 { 5 } else { 3 };
    let cluster = Cluster::start(&format!("storm-{seed}"), replicas, &small(), seed).await;
    let load = Load::start(&cluster, Mix::FULL, seed).await;
    let trouble = Trouble::new(&cluster, POWERS, seed);
    let began = Instant::now();
    let tracks = trouble.start();
    let is_enough = || {
        let faults = trouble.book.borrow().effective();
        began.elapsed() >= time * 2 || (faults >= FAULTS && load.answered() >= OPS)
    };
    while began.elapsed() < time || !is_enough() {
        sleep(Duration::from_millis(50)).await;
        cluster.check_falls();
        if let Some(track) = tracks.iter().find(|track| track.is_finished()) {
            panic!("a track of faults has ended early: {track:?}");
        }
    }
    let mut book = trouble.end(tracks).await;
    let took = began.elapsed();
    trouble.say("the faults are over");
    let rows = load.finish(&cluster).await;
    trouble.say("checked");
    book.views = cluster.primary().await.map_or(0, |(_, view)| view);
    for event in COUNTED {
        book.counted.insert(event, cluster.counted(event).await);
    }
    cluster.end().await;
    let mut one = Summary::default();
    one.add(rows.clone(), &book, took);
    if one.anomalies() > 0 {
        say(&one.text());
        say(&book.diary.join("\n"));
        panic!("{} anomalies, seed {seed}", one.anomalies());
    }
    summary.add(rows, &book, took);
}

fn judge(summary: &Summary, faults: u64) {
    let effective = summary.book.effective();
    assert!(effective >= faults, "{effective} faults took effect");
    assert_eq!(summary.anomalies(), 0);
    let different = summary.book.counted.get("digests_different");
    assert_eq!(different, Some(&0), "states differ");
    assert_eq!(
        summary.idle(),
        Vec::<&str>::new(),
        "every workload did something"
    );
    let without = summary.book.without_effect();
    assert!(
        without.is_empty(),
        "faults that never took effect: {without:?}"
    );
}

//! Processes that were killed and started again: what they say of themselves, and when there are too
//! few others to recover from.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use vsr_node::local::{self, LocalCluster};

use super::cluster::{call, cluster};
use super::run;

/// Waits until the page of a replica answers with a text that contains `part`.
async fn until(cluster: &LocalCluster, replica: usize, path: &str, part: &str) -> String {
    let address = &cluster.members()[replica].admin;
    loop {
        if let Ok((_, body)) = local::get(address, path).await
            && body.contains(part)
        {
            return body;
        }
        sleep(Duration::from_millis(10)).await; // the test's own deadline bounds this
    }
}

#[test]
fn a_killed_process_comes_back_empty_and_says_how_it_recovered() {
    run(async {
        let mut cluster = cluster().await;
        let members = cluster.members().to_vec();
        call(&members[0].resp, &["SET", "a", "1"], "+OK\r\n").await;
        for victim in [0, 2] {
            cluster.kill(victim).await.expect("killed");
            cluster.restart(victim).expect("started");
            until(&cluster, victim, "/readyz", "ready\n").await;
            let status = cluster.status(victim).await.expect("a status");
            let recovered = status.recovered.expect("it had nothing");
            assert!(recovered.bytes > 0 && recovered.op > 0, "{recovered:?}");
            assert!(recovered.seconds <= recovered.seconds_since_start);
            assert_eq!(status.recovery, None, "it is over");
            call(&members[victim].resp, &["GET", "a"], "$1\r\n1\r\n").await;
            let metrics = until(
                &cluster,
                victim,
                "/metrics",
                "vsr_recovery_duration_seconds",
            )
            .await;
            for line in [
                "vsr_quorum_lost 0",
                "vsr_recovery_phase{phase=\"asking\"} 0",
            ] {
                assert!(metrics.lines().any(|found| found == line), "{metrics}");
            }
        }
        let status = cluster.status(1).await.expect("a status");
        assert_eq!(status.recovered, None, "it was there all the time");
        assert!(status.view_changes > 0, "the primary was killed");
        for end in cluster.stop().await {
            assert!(end.expect("waited for").success());
        }
    });
}

#[test]
fn beyond_f_everybody_halts_and_says_that_the_quorum_is_lost() {
    run(async {
        let mut cluster = cluster().await;
        let members = cluster.members().to_vec();
        call(&members[0].resp, &["SET", "a", "1"], "+OK\r\n").await;
        cluster.kill(1).await.expect("killed");
        cluster.kill(2).await.expect("killed");
        cluster.restart(1).expect("started");
        cluster.restart(2).expect("started");
        for replica in 0..3 {
            let reason = until(&cluster, replica, "/readyz", "QUORUM_LOST").await;
            assert!(reason.contains("fewer than 2 of 3"), "R{replica}: {reason}");
            until(&cluster, replica, "/livez", "times").await;
            until(&cluster, replica, "/metrics", "vsr_quorum_lost 1").await;
        }
        let statuses = cluster.statuses().await.expect("all answer");
        for (replica, status) in statuses.iter().enumerate() {
            assert!(
                status.quorum_lost && !status.ready,
                "R{replica}: {status:?}"
            );
        }
        assert_ne!(
            statuses[0].status, "recovering",
            "it still holds everything"
        );
        // What it holds can still be read by whoever says that old values will do.
        let mut survivor = TcpStream::connect(&members[0].resp)
            .await
            .expect("a RESP port");
        let read = b"READONLY\r\nGET a\r\n";
        survivor.write_all(read).await.expect("sent");
        let mut reply = [0; 12];
        survivor.read_exact(&mut reply).await.expect("answered");
        assert_eq!(&reply, b"+OK\r\n$1\r\n1\r\n");
        for lost in &statuses[1..] {
            assert_eq!(
                lost.status, "recovering",
                "and never forms a cluster: {lost:?}"
            );
            assert_eq!(lost.recovered, None);
        }
        drop(cluster);
    });
}

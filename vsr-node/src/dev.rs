//! `vsr-node dev`: a throw-away cluster on well-known ports, kept up until Ctrl-C.
//!
//! A replica that is killed is started again, empty, as a supervisor would do, and recovers from the
//! others: `kill -9` is what this cluster is for.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::local::{LocalCluster, LocalError, Member, members_from, say};

/// Smaller than the defaults: several replicas share one machine.
const SETTINGS: [(&str, &str); 4] = [
    // Up at once is worth more here than never to wait for a page.
    ("no-prefault", "on"),
    ("memory", "256MiB"),
    ("journal-size", "64MiB"),
    ("log-level", "warn"),
];

/// A process that ends sooner after its start than this would do so again.
const STARTS_BADLY: Duration = Duration::from_secs(2);

/// Starts the cluster, says where it is, and keeps it until `stop` resolves.
///
/// # Errors
/// When the cluster does not come about, or a replica ends as soon as it is started.
pub async fn run(
    program: PathBuf,
    replicas: u8,
    base_port: u16,
    stop: impl Future<Output = ()>,
) -> Result<(), LocalError> {
    let members = members_from(base_port, usize::from(replicas))?;
    let mut cluster = LocalCluster::spawn(&program, "dev", members, &SETTINGS)?;
    tokio::pin!(stop);
    let formed = tokio::select! {
        biased;
        () = &mut stop => None,
        formed = cluster.form() => Some(formed?),
    };
    let Some(formed) = formed else {
        say("\nStopping before the cluster has formed.");
        cluster.stop().await;
        return Ok(());
    };
    announce(&cluster, &formed.cluster.to_string());
    let mut started = vec![Instant::now(); usize::from(replicas)];
    let mut looks = interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            // Ctrl-C reaches the children too: their ends are then no news.
            biased;
            () = &mut stop => break,
            _ = looks.tick() => start_again(&mut cluster, &mut started)?,
        }
    }
    say("\nStopping.");
    cluster.stop().await;
    Ok(())
}

/// Starts again what has ended.
fn start_again(cluster: &mut LocalCluster, started: &mut [Instant]) -> Result<(), LocalError> {
    for (replica, status) in cluster.take_dead()? {
        if started[replica].elapsed() < STARTS_BADLY {
            return Err(LocalError::Died { replica, status });
        }
        cluster.restart(replica)?;
        started[replica] = Instant::now();
        let process = cluster.processes()[replica].unwrap_or_default();
        say(&format!(
            "R{replica} has ended ({status}). It is started again, empty, as process {process}, and recovers."
        ));
    }
    Ok(())
}

fn announce(cluster: &LocalCluster, id: &str) {
    say(&format!(
        "A cluster for development, {id}. Its data is gone when it stops.\n"
    ));
    say("      redis                native               admin                       process");
    for (index, (member, process)) in cluster
        .members()
        .iter()
        .zip(cluster.processes())
        .enumerate()
    {
        let Member {
            native,
            resp,
            admin,
        } = member;
        let process = process.map_or_else(|| "-".into(), |pid| pid.to_string());
        say(&format!(
            "  R{index}  {resp:<19}  {native:<19}  http://{admin:<19}  {process}"
        ));
    }
    let first = &cluster.members()[0];
    let port = first.resp.rsplit(':').next().unwrap_or_default();
    let endpoints: Vec<&str> = cluster
        .members()
        .iter()
        .map(|m| m.native.as_str())
        .collect();
    say(&format!(
        "\nTry:  redis-cli -p {port} set greeting hello\n      vsr-cli --endpoints {} status\n      kill -9 any of the \
         processes: it is started again, empty, and recovers\nCtrl-C stops it.",
        endpoints.join(",")
    ));
}

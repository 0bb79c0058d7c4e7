//! `dev` and `demo` as a newcomer runs them, and what becomes of their children.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::sleep;
use vsr_node::inspect::Status;
use vsr_node::local;

use super::{program, run, signal};

/// A base port from which on everything that so many replicas need is free.
fn base_port(replicas: u16) -> u16 {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let any = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.local_addr().expect("its address").port()
    };
    std::iter::repeat_with(any)
        .take(100)
        .find(|port| {
            let needed =
                (0..replicas).flat_map(|index| [0, 621, 2721].map(|offset| offset + index));
            *port < 60_000 && needed.into_iter().all(|offset| free(port + offset))
        })
        .expect("free ports")
}

/// `vsr-node dev` with these arguments, and what it says.
fn spawn_dev(base_port: u16, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(program())
        .args(["dev", "--base-port", &base_port.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, lines)
}

async fn dev(base_port: u16) -> Child {
    let (child, mut lines) = spawn_dev(base_port, &["--replicas", "1"]);
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.expect("text") {
        said.push_str(&line);
        if line.contains("Ctrl-C") {
            assert!(said.contains(&format!("127.0.0.1:{base_port}")), "{said}");
            assert!(said.contains("redis-cli"), "{said}");
            return child;
        }
    }
    panic!("dev ended early: {said}");
}

async fn until_closed(port: u16) {
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .is_ok()
    {
        sleep(Duration::from_millis(10)).await; // the test's own deadline bounds this
    }
}

#[test]
fn dev_serves_until_it_is_asked_to_stop_and_takes_its_children_along() {
    run(async {
        let port = base_port(1);
        let mut child = dev(port).await;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .expect("it serves");
        signal(&child, "INT").await;
        assert_eq!(child.wait().await.expect("waited for").code(), Some(0));
        let left = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        assert!(left.is_err(), "no child is left when the parent has ended");
    });
}

#[test]
fn dev_starts_a_killed_replica_again_and_it_recovers() {
    run(async {
        let port = base_port(3);
        let (mut child, mut lines) = spawn_dev(port, &[]);
        let mut processes = Vec::new();
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.starts_with("  R") {
                let process = line.split_whitespace().last().expect("a column");
                processes.push(process.to_owned());
            }
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        // A process that ends right after its start is not started again.
        let admin = |replica: u16| format!("127.0.0.1:{}", port + 2721 + replica);
        let old_enough = async {
            loop {
                let (_, page) = local::get(&admin(0), "/status").await.expect("an answer");
                let status: Status = serde_json::from_str(&page).expect("a status");
                if status.uptime_seconds > 3.0 {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        old_enough.await;
        let kill = format!("kill -KILL {}", processes[0]);
        let killed = Command::new("sh").args(["-c", &kill]).status().await;
        assert!(killed.expect("a shell").success());
        let said = lines.next_line().await.expect("text").expect("a line");
        assert!(said.starts_with("R0 has ended (signal: 9"), "{said}");
        let recovered = async {
            loop {
                if let Ok((200, page)) = local::get(&admin(0), "/status").await {
                    let status: Status = serde_json::from_str(&page).expect("a status");
                    if status.ready && status.recovered.is_some() {
                        return;
                    }
                }
                sleep(Duration::from_millis(10)).await; // the test's own deadline bounds this
            }
        };
        recovered.await;
        signal(&child, "INT").await;
        assert_eq!(child.wait().await.expect("waited for").code(), Some(0));
    });
}

#[test]
fn children_go_when_their_parent_is_killed() {
    run(async {
        let port = base_port(1);
        let mut child = dev(port).await;
        child.kill().await.expect("killed");
        until_closed(port).await;
    });
}

#[test]
fn the_demo_ends_by_itself_and_says_that_all_is_well() {
    run(async {
        let output = Command::new(program())
            .args(["demo", "--seconds", "1"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("started");
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{text}\n{error}");
        for part in [
            "lost",
            "doubled",
            "linearizable                      yes",
            ", the primary, was killed",
            "recovered, from nothing",
            "latency p50",
            "digest of R2",
            "All is well",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("WRONG"), "{text}");
    });
}

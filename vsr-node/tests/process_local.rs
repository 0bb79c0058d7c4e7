//! `dev` and `demo` as a newcomer runs them, and what becomes of their children.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        timeout(Duration::from_secs(180), test)
            .await
            .expect("in time")
    });
}

/// A base port from which on everything that one replica needs is free.
fn base_port() -> u16 {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let any = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.local_addr().expect("its address").port()
    };
    std::iter::repeat_with(any)
        .take(100)
        .find(|port| *port < 60_000 && [0, 621, 2721].iter().all(|offset| free(port + offset)))
        .expect("free ports")
}

async fn dev(base_port: u16) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vsr-node"))
        .args([
            "dev",
            "--replicas",
            "1",
            "--base-port",
            &base_port.to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
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

async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("running");
    let killed = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{name} {pid}"))
        .status()
        .await;
    assert!(killed.expect("a shell").success());
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
        let port = base_port();
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
fn children_go_when_their_parent_is_killed() {
    run(async {
        let port = base_port();
        let mut child = dev(port).await;
        child.kill().await.expect("killed");
        until_closed(port).await;
    });
}

#[test]
fn the_demo_ends_by_itself_and_says_that_all_is_well() {
    run(async {
        let output = Command::new(env!("CARGO_BIN_EXE_vsr-node"))
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
            "latency p50",
            "digest of R2",
            "All is well",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("WRONG"), "{text}");
    });
}

//! Real processes on loopback, as operators and newcomers run them.

mod cluster;
mod epochs;
mod image;
mod leaving;
mod local;
mod recovering;

use std::path::PathBuf;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The node's program.
fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_vsr-node").into()
}

/// Runs `test`, for a bounded time.
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

/// Sends a signal by its name without the `SIG`.
async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("running");
    let killed = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{name} {pid}"))
        .status()
        .await;
    assert!(killed.expect("a shell").success());
}

//! Three real replicas in this process, and the command that operates them, for the tests beside it.

use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::LocalSet;
use vsr_node::local::{Member, free_members};
use vsr_node::{Config, Node};

/// Three blank replicas, each on a thread and a runtime of its own, until the test ends.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
}

impl Cluster {
    /// Starts them with small memories and these settings.
    pub(crate) fn start(name: &str, settings: &[(&str, &str)]) -> Self {
        let members = free_members(3).expect("free ports");
        let peers: Vec<_> = members.iter().map(|m| m.native.as_str()).collect();
        let peers = peers.join(",");
        let (started, wait) = mpsc::channel();
        for (replica, member) in (0..).zip(&members) {
            let small = [
                ("resp", member.resp.as_str()),
                ("no-admin", "true"),
                ("sessions", "64"),
                ("batch-max", "64KiB"),
            ];
            let config = small
                .iter()
                .chain(settings)
                .try_fold(
                    Config::new(name, &peers, replica).expect("valid"),
                    |config, (name, value)| config.with(name, value),
                )
                .expect("valid settings");
            let started = started.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let told = started.clone();
                let node = Node::builder(config).on_start(move |_| {
                    told.send(Ok(())).expect("the test waits");
                });
                let end =
                    LocalSet::new().block_on(&runtime.expect("a runtime"), node.serve_key_values());
                // Only a node that could not start ends before the test does.
                drop(started.send(end.map_err(|error| error.to_string())));
            });
        }
        for _ in &members {
            let outcome = wait
                .recv_timeout(Duration::from_secs(60))
                .expect("starts in time");
            outcome.expect("the node starts");
        }
        Self { members }
    }

    pub(crate) fn cli(&self, words: &[&str]) -> Output {
        let endpoints: Vec<_> = self.members.iter().map(|m| m.native.as_str()).collect();
        Command::new(env!("CARGO_BIN_EXE_vsr-cli"))
            .args(words)
            .env("VSR_ENDPOINTS", endpoints.join(","))
            .env_remove("VSR_CLUSTER")
            .output()
            .expect("the binary was built for this test")
    }

    /// Runs the command, which must end with `code`, and returns what it printed.
    pub(crate) fn expect(&self, code: i32, words: &[&str]) -> String {
        let output = self.cli(words);
        let (out, err) = (&output.stdout, &output.stderr);
        let text = [String::from_utf8_lossy(out), String::from_utf8_lossy(err)].concat();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        text
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let text = self.expect(0, &[&["-o", "json"], words].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }
}

//! `export`, `inspect image` and `import`, as an operator types them (R7.4 to R7.6, R8.9).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::LocalSet;
use vsr_node::local::{Member, free_members};
use vsr_node::{Config, Node};

/// Blank replicas, each on a thread of its own, until the test ends.
struct Replicas {
    members: Vec<Member>,
}

impl Replicas {
    fn start(memory: &str) -> Self {
        let members = free_members(3).expect("free ports");
        let peers: Vec<_> = members.iter().map(|m| m.native.as_str()).collect();
        let peers = peers.join(",");
        let (started, wait) = mpsc::channel();
        for (replica, member) in (0..).zip(&members) {
            let settings = [
                ("resp", member.resp.as_str()),
                ("no-admin", "true"),
                ("memory", memory),
                ("sessions", "64"),
                ("reply-size", "4MiB"),
                ("batch-max", "64KiB"),
                ("journal-size", "8MiB"),
            ];
            let config = settings
                .iter()
                .try_fold(
                    Config::new("images", &peers, replica).expect("valid"),
                    |config, (name, value)| config.with(name, value),
                )
                .expect("valid settings");
            let started = started.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let node = Node::builder(config)
                    .on_start(move |_| started.send(()).expect("the test waits"));
                let end =
                    LocalSet::new().block_on(&runtime.expect("a runtime"), node.serve_key_values());
                end.expect("it starts");
            });
        }
        for _ in &members {
            let outcome = wait.recv_timeout(Duration::from_secs(60));
            outcome.expect("starts in time");
        }
        Self { members }
    }

    fn cli(&self, words: &[&str]) -> Output {
        let endpoints: Vec<_> = self.members.iter().map(|m| m.native.as_str()).collect();
        Command::new(env!("CARGO_BIN_EXE_vsr-cli"))
            .args(words)
            .env("VSR_ENDPOINTS", endpoints.join(","))
            .env_remove("VSR_CLUSTER")
            .output()
            .expect("the binary was built for this test")
    }

    fn expect(&self, code: i32, words: &[&str]) -> String {
        let output = self.cli(words);
        let (out, err) = (&output.stdout, &output.stderr);
        let text = [String::from_utf8_lossy(out), String::from_utf8_lossy(err)].concat();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        text
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.expect(0, &[&["-o", "json"], words].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }

    fn call(&self, replica: usize, words: &[&str]) -> Value {
        let resp = &self.members[replica].resp;
        self.json(&[&["call", "--resp", resp], words].concat())
    }

    fn until_healthy(&self) {
        let healthy = (0..200).any(|_| self.cli(&["health", "--all"]).status.success());
        assert!(healthy, "{}", self.expect(0, &["health", "--all"]));
    }
}

/// A folder that is gone with its test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("vsr-cli-image-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_state_goes_into_a_file_and_another_cluster_begins_with_it() {
    let folder = Folder::new();
    let file = folder.file("state.vsr");
    let old = Replicas::start("16MiB");
    // Nothing to export yet.
    assert!(old.expect(3, &["export", &file]).contains("memory"));
    old.expect(0, &["init"]);
    old.until_healthy();
    for number in 0..20 {
        old.call(
            number % 3,
            &["SET", &format!("key:{number}"), &format!("value {number}")],
        );
    }
    let exported = old.json(&["export", &file]);
    assert_eq!(exported["verdict"], "written and verified");
    assert_eq!(exported["cluster_name"], "images");
    assert_eq!(exported["replica"], 2, "the last backup of the chain");
    assert_eq!(
        exported["size_bytes"],
        fs::metadata(&file).expect("there").len()
    );
    assert!(old.expect(2, &["export", &file]).contains("exists already"));
    old.json(&["export", &file, "--replace", "--from", "1"]);
    let again = old.json(&["inspect", "image", &file]);
    assert_eq!(again["replica"], 1);
    assert_eq!(
        old.json(&["export", "--check", &file])["checksum"],
        again["checksum"]
    );
    let table = old.expect(0, &["inspect", "image", &file]);
    for word in ["state after op", "vsr-kv", "the file is sound"] {
        assert!(table.contains(word), "{table}");
    }

    // A cluster that works, and one with another memory, refuse; damage is found before anybody is asked.
    assert!(
        old.expect(3, &["import", &file])
            .contains("nothing was changed")
    );
    let new = Replicas::start("16MiB");
    damaged_files_are_refused(&new, Path::new(&file), &folder);
    let small = Replicas::start("8MiB");
    let refused = small.expect(3, &["import", &file]);
    assert!(refused.contains("--memory"), "{refused}");
    small.expect(0, &["init"]);

    let imported = new.json(&["import", &file]);
    assert_eq!(imported["digest"], again["digest"]);
    assert_ne!(imported["cluster"], again["cluster"]);
    assert_eq!(imported["op"], again["op"]);
    new.until_healthy();
    for number in 0..20 {
        let value = new.call((number + 1) % 3, &["GET", &format!("key:{number}")]);
        assert_eq!(value, json!(format!("value {number}")));
    }
    assert_eq!(new.call(0, &["INCR", "after"]), json!(1));
    assert!(new.expect(0, &["verify", "--deep"]).contains("equal"));
    assert!(
        new.expect(3, &["import", &file])
            .contains("belongs to a cluster")
    );
    let primary = new.json(&["primary", "move", "1"]);
    assert!(primary.is_object(), "{primary}");
    assert_eq!(new.call(2, &["INCR", "after"]), json!(2));
    let second = new.json(&["export", &folder.file("second.vsr")]);
    assert_eq!(second["session_chunks"], again["session_chunks"]);
    assert!(
        second["op"].as_u64() > again["op"].as_u64(),
        "op numbers go on"
    );
}

fn damaged_files_are_refused(replicas: &Replicas, file: &Path, folder: &Folder) {
    let sound = fs::read(file).expect("a file");
    let bad = folder.file("bad.vsr");
    let mut flipped = sound.clone();
    flipped[sound.len() / 3] ^= 16;
    for (bytes, word) in [
        (&flipped[..], "damaged"),
        (&sound[..sound.len() - 1], "cut off"),
        (b"a shopping list", "no image"),
    ] {
        fs::write(&bad, bytes).expect("written");
        for words in [&["import", bad.as_str()][..], &["inspect", "image", &bad]] {
            let told = replicas.expect(1, words);
            assert!(told.contains(word), "{word}: {told}");
        }
    }
    let missing = replicas.expect(1, &["import", &folder.file("none.vsr")]);
    assert!(missing.contains("none.vsr"), "{missing}");
    assert_eq!(replicas.json(&["status"])["replicas"][0]["status"], "blank");
}

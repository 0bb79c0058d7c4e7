//! `export`, `inspect image` and `import`, as an operator types them (R7.4 to R7.6, R8.9).

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use support::Cluster;

fn start(memory: &str) -> Cluster {
    let settings = [
        ("memory", memory),
        ("reply-size", "4MiB"),
        ("journal-size", "8MiB"),
    ];
    Cluster::start("images", &settings)
}

/// What this file asks of a cluster.
trait Replicas {
    fn call(&self, replica: usize, words: &[&str]) -> Value;
    fn until_healthy(&self);
}

impl Replicas for Cluster {
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
    let old = start("16MiB");
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
    let new = start("16MiB");
    damaged_files_are_refused(&new, Path::new(&file), &folder);
    let small = start("8MiB");
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

fn damaged_files_are_refused(replicas: &Cluster, file: &Path, folder: &Folder) {
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

//! The six crates depend strictly downward, dev-dependencies included.
//!
//! ```text
//! vsr-types <- vsr-journal <- vsr-consensus <- vsr-net <- vsr-node <- vsr-cli
//! ```
//!
//! A crate may use any crate to its left and none to its right. Cargo itself only refuses cycles,
//! and not even those through dev-dependencies; this test reads what cargo says of the workspace.

use std::process::Command;

use serde_json::{Value, json};

/// From the bottom to the top.
const LAYERS: [&str; 6] = [
    "vsr-types",
    "vsr-journal",
    "vsr-consensus",
    "vsr-net",
    "vsr-node",
    "vsr-cli",
];

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| env!("CARGO").to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

/// What is wrong with the dependencies in `metadata`, in words.
fn complaints(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"]
        .as_array()
        .expect("cargo lists packages");
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let mut complaints = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        let Some(own) = layer(name) else {
            complaints.push(format!("{name} is no layer of the house"));
            continue;
        };
        for dependency in package["dependencies"]
            .as_array()
            .expect("cargo lists dependencies")
        {
            let other = dependency["name"]
                .as_str()
                .expect("a dependency has a name");
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            match layer(other) {
                Some(below) if below < own => {}
                Some(_) => complaints.push(format!("{name} must not use {other} ({kind})")),
                None if other.starts_with("vsr") => {
                    complaints.push(format!("{name} uses {other}, which is no layer ({kind})"));
                }
                None => {}
            }
        }
    }
    for layer in LAYERS {
        if !packages.iter().any(|package| package["name"] == layer) {
            complaints.push(format!("{layer} is missing"));
        }
    }
    complaints
}

#[test]
fn no_crate_depends_upward_or_sideways() {
    assert_eq!(complaints(&metadata()), Vec::<String>::new());
}

#[test]
fn an_upward_dependency_of_any_kind_would_be_seen() {
    for kind in [Value::Null, json!("dev"), json!("build")] {
        let mut metadata = metadata();
        let packages = metadata["packages"].as_array_mut().expect("packages");
        let types = packages
            .iter_mut()
            .find(|package| package["name"] == "vsr-types");
        let dependencies = types.expect("the lowest layer")["dependencies"].as_array_mut();
        dependencies
            .expect("a list")
            .push(json!({"name": "vsr-journal", "kind": kind}));
        let complaints = complaints(&metadata);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(
            complaints[0].starts_with("vsr-types must not use vsr-journal"),
            "{complaints:?}"
        );
    }
}

#[test]
fn a_crate_outside_the_plan_would_be_seen() {
    let mut metadata = metadata();
    let packages = metadata["packages"].as_array_mut().expect("packages");
    packages.push(json!({"name": "vsr-util", "dependencies": []}));
    packages.retain(|package| package["name"] != "vsr-net");
    let complaints = complaints(&metadata);
    assert_eq!(
        complaints,
        ["vsr-util is no layer of the house", "vsr-net is missing"]
    );
}

//! The command against three real replicas in this process: what an operator does in a first hour.

mod support;

use serde_json::{Value, json};

use support::Cluster;

/// The steps share one cluster and build on each other.
#[test]
fn an_operators_first_hour() {
    let cluster = Cluster::start(
        "cli-test",
        &[("memory", "32MiB"), ("journal-size", "32MiB")],
    );
    a_blank_cluster_is_formed_once(&cluster);
    all_replicas_are_shown_alike(&cluster);
    redis_commands_reach_every_replica(&cluster);
    load_can_be_measured_both_ways(&cluster);
    what_was_done_can_be_inspected(&cluster);
    who_leads_can_be_chosen(&cluster);
    another_clusters_name_is_refused(&cluster);
}

fn a_blank_cluster_is_formed_once(cluster: &Cluster) {
    let blank = cluster.json(&["status"]);
    assert_eq!(blank["reachable"], 3);
    assert_eq!(blank["replicas"][2]["status"], "blank");
    assert!(cluster.expect(1, &["health"]).contains("vsr-cli init"));
    assert!(cluster.expect(0, &["init"]).contains("survives 1 failure"));
    // Not blank any more: refused, exit code 3, nothing changed.
    assert!(
        cluster
            .expect(3, &["init"])
            .contains("next: nothing was changed")
    );
    let formed = (0..100).any(|_| cluster.cli(&["health", "--all"]).status.success());
    assert!(formed, "{}", cluster.expect(0, &["health", "--all"]));
}

fn all_replicas_are_shown_alike(cluster: &Cluster) {
    let status = cluster.json(&["status"]);
    let rows = status["replicas"].as_array().expect("a list");
    let ids: Vec<&Value> = rows.iter().map(|row| &row["cluster"]).collect();
    assert!(
        ids[0].is_string() && ids.iter().all(|id| *id == ids[0]),
        "{ids:?}"
    );
    let roles: Vec<&Value> = rows.iter().map(|row| &row["role"]).collect();
    assert_eq!(roles, ["primary", "backup", "backup"]);
    let table = cluster.expect(0, &["status"]);
    for word in ["cli-test", "led by R0", "3 of 3 replicas reachable"] {
        assert!(table.contains(word), "{table}");
    }
}

fn redis_commands_reach_every_replica(cluster: &Cluster) {
    for (number, member) in (1..).zip(&cluster.members) {
        let answer = cluster.json(&["call", "--resp", &member.resp, "INCR", "visits"]);
        assert_eq!(answer, Value::from(number));
    }
    let resp = &cluster.members[1].resp;
    let refused = cluster.expect(1, &["call", "--resp", resp, "GET"]);
    assert!(refused.contains("wrong number of arguments"), "{refused}");
}

fn load_can_be_measured_both_ways(cluster: &Cluster) {
    let resp: Vec<&str> = cluster
        .members
        .iter()
        .map(|member| member.resp.as_str())
        .collect();
    let resp = resp.join(",");
    let how = [
        "-c",
        "4",
        "-P",
        "8",
        "--reads",
        "50%",
        "--duration",
        "300ms",
        "--warmup",
        "0",
    ];
    for protocol in [
        &["--resp", &resp][..],
        &["--native"],
        &["--resp", &resp, "--wait", "1"],
    ] {
        let found = cluster.json(&[&["bench"], protocol, &how].concat());
        assert_eq!(found["errors"], 0, "{found}");
        assert!(
            found["operations"].as_u64().is_some_and(|count| count > 0),
            "{found}"
        );
        assert!(
            found["latency_us"]["p50"]
                .as_f64()
                .is_some_and(|us| us > 1.0),
            "{found}"
        );
    }
    for (name, begins) in [("hgrm", "Value"), ("hlog", "#")] {
        let file = std::env::temp_dir().join(format!("vsr-cli-{}.{name}", std::process::id()));
        let path = file.to_str().expect("text");
        cluster.expect(
            0,
            &[&["bench", "--native", "--hist", path], &how[..]].concat(),
        );
        let histogram = std::fs::read_to_string(&file).expect("written");
        std::fs::remove_file(&file).expect("ours");
        assert!(
            histogram.trim_start().starts_with(begins),
            "{name}: {histogram}"
        );
    }
    let pings = cluster.json(&["ping", "--count", "5"]);
    let rows = pings["pings"].as_array().expect("a list");
    let names: Vec<&Value> = rows.iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["R0", "R1", "R2", "read"]);
    let verdict = cluster.json(&["verify"]);
    assert_eq!(verdict["verdict"], "equal", "{verdict}");
    assert!(verdict["op"].as_u64().is_some_and(|op| op > 0), "{verdict}");
    let deep = cluster.json(&["verify", "--deep"]);
    assert_eq!(deep["deep"]["verdict"], "equal", "{deep}");
    assert!(
        deep["deep"]["chunks"]
            .as_u64()
            .is_some_and(|count| count > 10),
        "{deep}"
    );
    assert_eq!(deep["deep"]["compared"], deep["deep"]["chunks"], "{deep}");
    let table = cluster.expect(0, &["verify", "--deep"]);
    assert!(table.contains("0 different"), "{table}");
}

fn what_was_done_can_be_inspected(cluster: &Cluster) {
    for topic in ["sessions", "config", "limits", "chain"] {
        let json = cluster.json(&["inspect", topic]);
        assert!(json.is_array() || json.is_object(), "{topic}: {json}");
        assert!(
            cluster
                .expect(0, &["inspect", topic])
                .starts_with("as 127.0.0.1:"),
            "{topic}"
        );
    }
    let log = cluster.json(&["inspect", "log", "--count", "3", "--replica", "2"]);
    assert_eq!(log.as_array().map(Vec::len), Some(3), "{log}");
    let op = log[2]["op"].to_string();
    let entry = cluster.json(&["inspect", "op", &op]);
    assert_eq!(entry["op"].to_string(), op, "{entry}");
    let missing = cluster.expect(1, &["inspect", "op", "999999999"]);
    assert!(missing.contains("not in the log"), "{missing}");
    assert!(
        cluster
            .expect(0, &["inspect", "metrics"])
            .contains("# TYPE vsr_")
    );
}

fn who_leads_can_be_chosen(cluster: &Cluster) {
    let shown = cluster.json(&["primary", "show"]);
    assert_eq!((&shown["primary"], &shown["view"]), (&json!(0), &json!(0)));
    for (target, view) in [(2, 2), (1, 4), (0, 6)] {
        let moved = cluster.json(&["primary", "move", &target.to_string()]);
        assert_eq!(moved["primary"], target, "{moved}");
        let reached = moved["view"].as_u64().expect("a view");
        assert!(reached >= view, "{moved}");
        assert_eq!(cluster.json(&["primary", "show"])["primary"], target);
        let resp = &cluster.members[0].resp;
        cluster.json(&["call", "--resp", resp, "INCR", "moves"]);
    }
    let table = cluster.expect(0, &["status"]);
    assert!(table.contains("led by R0"), "{table}");
    let status = cluster.json(&["status"]);
    assert!(
        status["replicas"][1]["view_changes"].as_u64() >= Some(3),
        "{status}"
    );
    // Who leads already goes on; who does not exist cannot.
    let same = cluster.expect(0, &["primary", "move", "0"]);
    assert!(same.contains("R0") && same.contains("leads view"), "{same}");
    let refused = cluster.expect(1, &["primary", "move", "5"]);
    assert!(refused.contains("R5 cannot lead"), "{refused}");
    let moves = cluster.json(&["call", "--resp", &cluster.members[2].resp, "GET", "moves"]);
    assert_eq!(moves, "3");
}

fn another_clusters_name_is_refused(cluster: &Cluster) {
    let refused = cluster.expect(1, &["status", "--cluster", "another"]);
    assert!(refused.contains("no replica answered"), "{refused}");
    assert!(
        cluster
            .expect(3, &["init", "--cluster", "another"])
            .contains("refused")
    );
}

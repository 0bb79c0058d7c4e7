//! The command as a shell sees it: exit codes, what goes to which stream, and what is generated.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output};

fn vsr_cli(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsr-cli"));
    command
        .args(words)
        .env_remove("VSR_ENDPOINTS")
        .env_remove("VSR_CLUSTER");
    command
        .output()
        .expect("the binary was built for this test")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// An address where nobody listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

/// A server that answers one connection: as many replies as it reads commands of one line count.
fn one_shot(reply: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut head = String::new();
        reader.read_line(&mut head).expect("a head");
        let words: usize = head
            .trim()
            .trim_start_matches('*')
            .parse()
            .expect("a count");
        let mut heard = Vec::new();
        for _ in 0..words {
            let mut size = String::new();
            reader.read_line(&mut size).expect("a size");
            let size: usize = size.trim().trim_start_matches('$').parse().expect("a size");
            let mut word = vec![0; size + 2];
            reader.read_exact(&mut word).expect("a word");
            word.truncate(size);
            heard.push(String::from_utf8(word).expect("text"));
        }
        stream
            .write_all(reply.as_bytes())
            .expect("the caller waits");
        heard.join(" ")
    });
    (address, server)
}

#[test]
fn wrong_usage_is_exit_code_two_and_names_what_is_wrong() {
    for (words, names) in [
        (&["frobnicate"][..], "frobnicate"),
        (&[], "Usage"),
        (&["bench", "--pipeline", "0"], "--pipeline"),
        (&["status", "--endpoints", "nowhere"], "--endpoints"),
        (&["inspect", "--replica", "9", "config"], "no endpoint 9"),
    ] {
        let output = vsr_cli(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(
            stderr(&output).contains(names),
            "{words:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn nobody_there_is_exit_code_one_with_the_reason_and_the_next_step() {
    let endpoint = nowhere();
    for words in [
        &["status"][..],
        &["health"],
        &["verify"],
        &["ping"],
        &["init"],
        &["inspect", "config"],
    ] {
        let words = [words, &["--endpoints", &endpoint, "--timeout", "2s"]].concat();
        let output = vsr_cli(&words);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{words:?}: {}",
            stderr(&output)
        );
        let said = stderr(&output);
        assert!(
            said.contains(&endpoint) && said.contains("next: "),
            "{words:?}: {said}"
        );
    }
    for words in [
        &["call", "--resp", &endpoint, "PING"][..],
        &["bench", "--resp", &endpoint],
    ] {
        let output = vsr_cli(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(stderr(&output).contains("--resp"), "{}", stderr(&output));
    }
}

#[test]
fn the_endpoints_may_come_from_the_environment() {
    let endpoint = nowhere();
    let output = Command::new(env!("CARGO_BIN_EXE_vsr-cli"))
        .args(["health"])
        .env("VSR_ENDPOINTS", &endpoint)
        .output()
        .expect("runs");
    assert!(stderr(&output).contains(&endpoint), "{}", stderr(&output));
}

#[test]
fn an_error_is_json_for_those_who_ask_for_json() {
    let output = vsr_cli(&["-o", "json", "health", "--endpoints", &nowhere()]);
    let json: serde_json::Value = serde_json::from_str(&stderr(&output)).expect("JSON");
    assert_eq!(json["exit_code"], 1);
    assert!(
        json["error"]
            .as_str()
            .is_some_and(|text| text.contains("no replica answered"))
    );
}

#[test]
fn a_call_prints_the_answer_in_the_format_asked_for() {
    for (format, expected) in [
        ("table", "\"wor\\r\\nld\"\n"),
        ("json", "\"wor\\r\\nld\"\n"),
    ] {
        let (address, server) = one_shot("$7\r\nwor\r\nld\r\n");
        let output = vsr_cli(&["-o", format, "call", "--resp", &address, "GET", "hello"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), expected);
        assert_eq!(server.join().expect("served"), "GET hello");
    }
    let (address, server) = one_shot("*2\r\n:1\r\n$1\r\nx\r\n");
    let output = vsr_cli(&["-o", "plain", "call", "--resp", &address, "SCAN", "-1"]);
    assert_eq!(stdout(&output), "1\nx\n");
    assert_eq!(server.join().expect("served"), "SCAN -1");
}

#[test]
fn an_error_reply_is_a_failure_with_the_servers_words() {
    let (address, server) = one_shot("-WRONGTYPE Operation against a key\r\n");
    let output = vsr_cli(&["call", "--resp", &address, "INCR", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("WRONGTYPE Operation against a key"));
    assert!(output.stdout.is_empty());
    server.join().expect("served");
}

#[test]
fn a_server_that_speaks_no_resp_is_named() {
    let (address, server) = one_shot("HTTP/1.1 400 Bad Request\r\n\r\n");
    let output = vsr_cli(&["call", "--resp", &address, "PING"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no RESP"), "{}", stderr(&output));
    server.join().expect("served");
}

#[test]
fn simulated_clusters_need_no_cluster_and_tell_the_same_story_twice() {
    let little = ["sim", "--ops", "200", "--faults", "loss,crash"];
    let output = vsr_cli(&[&little[..], &["--seeds", "3", "--from", "7"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "3 seeds from 7 on: no rule was broken",
        "events per second",
        "crashes",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let json = stdout(&vsr_cli(
        &[&["-o", "json"], &little[..], &["--seed", "8"]].concat(),
    ));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json["seeds"], &json["first_seed"]),
        (&1.into(), &8.into())
    );
    let traces: Vec<String> = ["a", "b"]
        .map(|name| std::env::temp_dir().join(format!("vsr-cli-{name}-{}", std::process::id())))
        .iter()
        .map(|file| {
            let path = file.to_str().expect("text");
            let output = vsr_cli(&[&little[..], &["--seed", "8", "--trace", path]].concat());
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            let trace = std::fs::read_to_string(file).expect("written");
            std::fs::remove_file(file).expect("ours");
            trace
        })
        .collect();
    assert!(traces[0].lines().count() > 1000, "{}", traces[0]);
    assert!(traces[0] == traces[1], "one seed, two stories");
}

#[test]
fn completions_exist_for_every_shell_and_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = vsr_cli(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = stdout(&output);
        for word in ["verify", "bench", "pipeline"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let page = stdout(&vsr_cli(&["man"]));
    assert!(
        page.contains(".TH") && page.contains("Exit codes"),
        "{page}"
    );
    let dir = std::env::temp_dir().join(format!("vsr-cli-man-{}", std::process::id()));
    let output = vsr_cli(&["man", "--dir", dir.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut pages: Vec<String> = std::fs::read_dir(&dir)
        .expect("written")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    pages.sort();
    std::fs::remove_dir_all(&dir).expect("ours");
    for command in [
        "",
        "-bench",
        "-call",
        "-health",
        "-init",
        "-inspect-log",
        "-ping",
        "-status",
    ] {
        let page = format!("vsr-cli{command}.1");
        assert!(pages.contains(&page), "{page} is not among {pages:?}");
    }
}

#[test]
fn colours_stay_out_of_pipes() {
    let output = vsr_cli(&["health", "--endpoints", &nowhere()]);
    assert!(!stderr(&output).contains('\u{1b}'), "{:?}", stderr(&output));
}

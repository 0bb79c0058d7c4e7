//! What people get wrong: each mistake is answered with the setting's name, what was given, where
//! it came from, and what would be right.

use std::ffi::OsString;

use vsr_node::Config;
use vsr_node::config::{Flags, Origin};

/// One mistake: the settings given, the setting that must be blamed, a part of what is wrong, and a
/// part of what is said to be right.
struct Case {
    given: &'static [(&'static str, &'static str)],
    field: &'static str,
    wrong: &'static str,
    right: &'static str,
}

const fn case(
    given: &'static [(&'static str, &'static str)],
    field: &'static str,
    wrong: &'static str,
    right: &'static str,
) -> Case {
    Case {
        given,
        field,
        wrong,
        right,
    }
}

const CASES: &[Case] = &[
    case(&[("cluster", "")], "cluster", "empty", "such as payments"),
    case(
        &[("cluster", "two words")],
        "cluster",
        "space",
        "without spaces",
    ),
    case(
        &[(
            "cluster",
            "0123456789012345678901234567890123456789012345678901234567890123456789",
        )],
        "cluster",
        "70 bytes long",
        "1 to 64 bytes",
    ),
    case(
        &[("peers", "")],
        "peers",
        "the list is empty",
        "a:7000,b:7000,c:7000",
    ),
    case(
        &[("peers", "a:1,b:1,a:1")],
        "peers",
        "as replica 0 and replica 2",
        "every replica once",
    ),
    case(
        &[("peers", "a:1,B:1,b:1")],
        "peers",
        "b:1 is in the list twice",
        "once",
    ),
    case(
        &[("peers", "a:1,b,c:1")],
        "peers",
        "entry 1 (\"b\"): has no port",
        "host:port",
    ),
    case(
        &[("peers", "a:1,,c:1")],
        "peers",
        "entry 1 (\"\"): empty",
        "host:port",
    ),
    case(&[("peers", "a:1,b:1,c:0")], "peers", "port 0", "1 to 65535"),
    case(
        &[("peers", "a:1,b:1,c:70000")],
        "peers",
        "\"70000\" is not a port",
        "1 to 65535",
    ),
    case(
        &[("peers", "a:1,:1,c:1")],
        "peers",
        "has no host",
        "host name",
    ),
    case(
        &[("peers", "a:1,::1:7000,c:1")],
        "peers",
        "without brackets",
        "[::1]:7000",
    ),
    case(
        &[("peers", "a:1,http://b:1,c:1")],
        "peers",
        "a URL",
        "host:port",
    ),
    case(
        &[("peers", "a:1,10.0.0.256:1,c:1")],
        "peers",
        "not an IPv4 address",
        "0 to 255",
    ),
    case(
        &[("peers", "a:1,b!:1,c:1")],
        "peers",
        "contains '!'",
        "host name",
    ),
    case(
        &[("peers", "a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1")],
        "peers",
        "8 entries",
        "at most 7 replicas",
    ),
    case(
        &[("replica", "3")],
        "replica",
        "no replica 3 in a list of 3",
        "from 0 to 2",
    ),
    case(
        &[("peers", "a:1"), ("replica", "1")],
        "replica",
        "no replica 1 in a list of 1",
        "0",
    ),
    case(
        &[("replica", "-1")],
        "replica",
        "not a whole number",
        "digits only",
    ),
    case(
        &[("replica", "one")],
        "replica",
        "not a whole number",
        "digits only",
    ),
    case(&[("listen", "7000")], "listen", "has no port", "host:port"),
    case(&[("listen", "0.0.0.0:0")], "listen", "port 0", "1 to 65535"),
    case(&[("resp", "localhost")], "resp", "has no port", "host:port"),
    case(
        &[("resp", "a:1"), ("no-resp", "true")],
        "resp",
        "contradict",
        "one of the two",
    ),
    case(
        &[("admin", "a:1"), ("no-admin", "true")],
        "admin",
        "contradict",
        "one of the two",
    ),
    case(
        &[("no-chain", "perhaps")],
        "no-chain",
        "neither on nor off",
        "true or false",
    ),
    case(
        &[("memory", "512M")],
        "memory",
        "powers of 1000 or of 1024",
        "512MiB",
    ),
    case(&[("memory", "lots")], "memory", "whole number", "512MiB"),
    case(
        &[("memory", "1KiB")],
        "memory",
        "1 KiB is out of range",
        "from 4 MiB to 32 GiB",
    ),
    case(
        &[("memory", "99999999999GiB")],
        "memory",
        "larger than any memory",
        "512MiB",
    ),
    case(
        &[("journal-size", "1MiB")],
        "journal-size",
        "too small",
        "at least",
    ),
    case(
        &[("batch-max", "2MiB")],
        "batch-max",
        "too large",
        "at most",
    ),
    case(
        &[("batch-max", "1KiB")],
        "batch-max",
        "too small",
        "at least 4096 bytes",
    ),
    case(
        &[("reply-size", "1KiB")],
        "reply-size",
        "too small",
        "at least",
    ),
    case(&[("sessions", "0")], "sessions", "out of range", "from 1"),
    case(
        &[("sessions", "4k")],
        "sessions",
        "not a whole number",
        "4096",
    ),
    case(
        &[("pipeline", "1000")],
        "pipeline",
        "out of range",
        "from 1 to 256",
    ),
    case(
        &[("journal-slots", "64")],
        "journal-slots",
        "too small",
        "at least 128",
    ),
    case(
        &[("op-max", "99999999999999999999999")],
        "op-max",
        "larger than 64 bits",
        "2^64",
    ),
    case(&[("op-max", "0")], "op-max", "out of range", "from 1"),
    case(&[("tick", "10")], "tick", "no unit", "perhaps 10ms"),
    case(&[("tick", "1us")], "tick", "too small", "at least 1ms"),
    case(
        &[("view-timeout", "20ms")],
        "view-timeout",
        "too small",
        "at least 40ms",
    ),
    case(
        &[("prepare-timeout", "10ms")],
        "prepare-timeout",
        "too small",
        "at least 20ms",
    ),
    case(
        &[("client-timeout", "1ms")],
        "client-timeout",
        "shorter than a tick",
        "at least 10ms",
    ),
    case(
        &[("drain-timeout", "ten")],
        "drain-timeout",
        "whole number",
        "5s",
    ),
    case(
        &[("digest-period", "1 week")],
        "digest-period",
        "not known",
        "100ms",
    ),
    case(
        &[("scrub-period", "1ms")],
        "scrub-period",
        "too small",
        "at least",
    ),
    case(
        &[("transfer-rate", "1KiB")],
        "transfer-rate",
        "too small",
        "at least",
    ),
    case(
        &[("resp-lanes", "0")],
        "resp-lanes",
        "out of range",
        "from 1 to 64",
    ),
    case(
        &[("clients-max", "0")],
        "clients-max",
        "out of range",
        "from 1",
    ),
    case(
        &[("connections-max", "0")],
        "connections-max",
        "out of range",
        "from 1 to 4096",
    ),
    case(
        &[("on-op-max", "archive")],
        "on-op-max",
        "needs a folder",
        "--archive-dir",
    ),
    case(
        &[("archive-dir", "/tmp")],
        "archive-dir",
        "nothing is archived with --on-op-max halt",
        "--on-op-max archive",
    ),
    case(
        &[("on-op-max", "archive"), ("archive-dir", "/no/such/folder")],
        "archive-dir",
        "cannot be read",
        "a folder that exists",
    ),
    case(
        &[("on-op-max", "archive"), ("archive-dir", "Cargo.toml")],
        "archive-dir",
        "not a folder",
        "a folder that exists",
    ),
    case(
        &[("on-op-max", "explode")],
        "on-op-max",
        "not a choice",
        "halt",
    ),
    case(
        &[("standby", "true")],
        "standby",
        "not in this version",
        "leave it out",
    ),
    case(
        &[("tls-cert", "cert.pem")],
        "tls-cert",
        "not in this version",
        "private network",
    ),
    case(
        &[("on-doubt", "guess")],
        "on-doubt",
        "not a choice",
        "restart or exit",
    ),
    case(
        &[("requirepass-file", "/no/such/file")],
        "requirepass-file",
        "cannot be read",
        "file",
    ),
    case(
        &[("requirepass-file", "/dev/null")],
        "requirepass-file",
        "empty",
        "first line",
    ),
    case(
        &[("log-level", "loud")],
        "log-level",
        "not a level",
        "debug",
    ),
    case(&[("log-level", "3")], "log-level", "not a level", "debug"),
    case(
        &[("log-format", "xml")],
        "log-format",
        "not a format",
        "text or json",
    ),
];

const BASE: [(&str, &str); 3] = [("cluster", "c"), ("peers", "a:1,b:1,c:1"), ("replica", "0")];

fn flags(given: &[(&'static str, &str)]) -> Flags {
    let base = BASE
        .iter()
        .filter(|(name, _)| given.iter().all(|(other, _)| other != name));
    let given = base
        .chain(given)
        .map(|(name, text)| (*name, (*text).to_owned()))
        .collect();
    Flags {
        config: None,
        given,
    }
}

#[test]
fn every_mistake_is_named_with_what_would_be_right() {
    for Case {
        given,
        field,
        wrong,
        right,
    } in CASES
    {
        let error = Config::load(&flags(given), &|_| None).expect_err("a mistake");
        let [problem] = error.problems.as_slice() else {
            panic!(
                "{given:?} is one mistake, not {}: {error}",
                error.problems.len()
            );
        };
        assert_eq!(problem.field, *field, "{given:?}: {problem}");
        assert!(problem.wrong.contains(wrong), "{given:?}: {problem}");
        assert!(problem.right.contains(right), "{given:?}: {problem}");
        let text = given
            .iter()
            .find(|(name, _)| name == field)
            .map(|(_, text)| *text);
        assert_eq!(problem.given.as_deref(), text, "{problem}");
        assert_eq!(problem.origin, Origin::Flag, "{problem}");
    }
}

#[test]
fn the_same_mistakes_are_found_in_the_environment_and_named_by_its_variable() {
    for Case {
        given,
        field,
        wrong,
        ..
    } in CASES
    {
        let variable = |name: &str| format!("VSR_{}", name.to_uppercase().replace('-', "_"));
        let all: Vec<(String, OsString)> = flags(given)
            .given
            .into_iter()
            .map(|(name, text)| (variable(name), OsString::from(text)))
            .collect();
        let lookup = |name: &str| {
            all.iter()
                .find(|(known, _)| known == name)
                .map(|(_, v)| v.clone())
        };
        let error = Config::load(&Flags::default(), &lookup).expect_err("a mistake");
        assert!(
            error.problems[0].wrong.contains(wrong),
            "{given:?}: {error}"
        );
        assert_eq!(
            error.problems[0].origin,
            Origin::Environment(variable(field))
        );
    }
}

#[test]
fn what_is_missing_is_asked_for_all_at_once() {
    let error = Config::load(&Flags::default(), &|_| None).expect_err("nothing given");
    let fields: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.field.as_str())
        .collect();
    assert_eq!(fields, ["cluster", "peers", "replica"]);
    assert!(error.problems[2].right.contains("VSR_REPLICA"), "{error}");
}

#[test]
fn the_message_reads_well() {
    let error = Config::load(&flags(&[("replica", "3")]), &|_| None).expect_err("a mistake");
    assert_eq!(
        error.to_string(),
        "replica: there is no replica 3 in a list of 3\n  given: \"3\" by the command line\n  right: a number from 0 to 2"
    );
}

/// One bad TOML file: its text, the setting blamed, the line, a part of what is wrong.
const FILES: &[(&str, &str, usize, &str)] = &[
    (
        "\n\njournal_slots = 4096\n",
        "journal_slots",
        3,
        "no such setting",
    ),
    (
        "[server]\ntick = \"10ms\"\n",
        "server",
        1,
        "no such setting",
    ),
    ("tick = 10\n", "tick", 1, "a TOML integer"),
    ("memory = 1.5\n", "memory", 1, "a TOML float"),
    ("memory = true\n", "memory", 1, "a TOML boolean"),
    ("no-resp = \"true\"\n", "no-resp", 1, "a TOML string"),
    ("peers = [1, 2]\n", "peers", 1, "not only strings"),
    ("replica = 0x1\n", "replica", 1, "a TOML integer"),
    (
        "sessions = 1\nsessions = 2\n",
        "config",
        1,
        "not valid TOML",
    ),
    ("tick = \n", "config", 1, "not valid TOML"),
    ("\ntick = \"10\"\n", "tick", 2, "has no unit"),
];

#[test]
fn mistakes_in_a_file_are_named_with_their_line() {
    let path = std::env::temp_dir().join(format!("vsr-config-errors-{}.toml", std::process::id()));
    for (text, field, line, wrong) in FILES {
        std::fs::write(&path, text).expect("a temporary file");
        let mut flags = flags(&[]);
        flags.config = Some(path.clone());
        let error = Config::load(&flags, &|_| None).expect_err(text);
        let problem = &error.problems[0];
        assert_eq!(problem.field, *field, "{problem}");
        assert!(problem.wrong.contains(wrong), "{problem}");
        assert_eq!(
            problem.origin,
            Origin::File {
                path: path.clone(),
                line: *line
            },
            "{problem}"
        );
    }
    std::fs::remove_file(&path).expect("the temporary file");
}

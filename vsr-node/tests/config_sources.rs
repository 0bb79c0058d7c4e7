//! Where settings come from, and who wins: flags over environment over TOML over defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Command, FromArgMatches};
use vsr_node::config::{FIELDS, Flags, Origin, Shape, print_default};
use vsr_node::{Config, ConfigError};

/// A folder of its own for one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vsr-config-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file in it");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ignored = std::fs::remove_dir_all(&self.0);
    }
}

fn flags(arguments: &[&str]) -> Flags {
    let command = Flags::augment_args(Command::new("start").no_binary_name(true));
    let matches = command
        .try_get_matches_from(arguments)
        .expect("known flags");
    Flags::from_arg_matches(&matches).expect("flags")
}

fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    Config::load(&flags(arguments), &|name| {
        environment.get(name).map(OsString::from)
    })
}

const BASE: [&str; 6] = ["--cluster", "c", "--peers", "a:1,b:1,c:1", "--replica", "2"];

fn with_base(more: &[&str], environment: &[(&str, &str)]) -> Config {
    let arguments: Vec<&str> = BASE.iter().chain(more).copied().collect();
    load(&arguments, environment).unwrap_or_else(|error| panic!("{error}"))
}

fn origin(config: &Config, name: &str) -> Origin {
    config
        .settings()
        .find(|(field, ..)| *field == name)
        .expect("set")
        .2
        .clone()
}

#[test]
fn each_source_overrides_the_weaker_ones() {
    let folder = Folder::new("precedence");
    let file = folder.file(
        "vsr.toml",
        "\nsessions = 11\ntick = \"11ms\"\npipeline = 11\n",
    );
    let file = file.to_str().expect("text");
    let environment = [("VSR_TICK", "12ms"), ("VSR_PIPELINE", "12")];
    let config = with_base(&["--config", file, "--pipeline", "13"], &environment);
    assert_eq!(
        config.consensus.journal_slots, 65_536,
        "nobody spoke: the default"
    );
    assert_eq!(config.consensus.sessions, 11, "only the file spoke");
    assert_eq!(
        config.consensus.tick.as_millis(),
        12,
        "the environment over the file"
    );
    assert_eq!(config.consensus.pipeline, 13, "the flag over both");

    assert_eq!(origin(&config, "journal-slots"), Origin::Default);
    let line = Origin::File {
        path: file.into(),
        line: 2,
    };
    assert_eq!(origin(&config, "sessions"), line);
    assert_eq!(
        origin(&config, "tick"),
        Origin::Environment("VSR_TICK".into())
    );
    assert_eq!(origin(&config, "pipeline"), Origin::Flag);
}

#[test]
fn the_environment_may_name_the_file_and_a_flag_overrides_it() {
    let folder = Folder::new("named");
    let one = folder.file("one.toml", "sessions = 1\n");
    let two = folder.file("two.toml", "sessions = 2\n");
    let environment = [("VSR_CONFIG", one.to_str().expect("text"))];
    assert_eq!(with_base(&[], &environment).consensus.sessions, 1);
    let config = with_base(&["--config", two.to_str().expect("text")], &environment);
    assert_eq!(config.consensus.sessions, 2);
}

#[test]
fn everything_can_come_from_each_source() {
    let folder = Folder::new("everything");
    let toml =
        "cluster = \"c\"\nreplica = 2\npeers = [\"a:1\", \"b:1\", \"c:1\"]\nno-resp = true\n";
    let file = folder.file("vsr.toml", toml);
    let from_file = load(&["--config", file.to_str().expect("text")], &[]).expect("valid");
    let environment = [
        ("VSR_CLUSTER", "c"),
        ("VSR_REPLICA", "2"),
        ("VSR_PEERS", "a:1, b:1, c:1"),
        ("VSR_NO_RESP", "true"),
    ];
    let from_environment = load(&[], &environment).expect("valid");
    let from_flags = with_base(&["--no-resp"], &[]);
    for config in [from_file, from_environment, from_flags] {
        assert_eq!(config.cluster, "c");
        assert_eq!(config.peers, ["a:1", "b:1", "c:1"]);
        assert_eq!(config.consensus.replica.raw(), 2);
        assert_eq!(config.consensus.replicas, 3);
        assert_eq!(config.listen, "c:1", "by default its own entry of the list");
        assert_eq!(config.resp, None);
        assert_eq!(config.admin.as_deref(), Some("127.0.0.1:9100"));
    }
}

#[test]
fn a_port_is_on_or_off_by_whoever_speaks_from_the_stronger_place() {
    let folder = Folder::new("ports");
    let on = folder.file("on.toml", "resp = \"0.0.0.0:1\"\n");
    let off = folder.file("off.toml", "no-resp = true\n");
    let (on, off) = (on.to_str().expect("text"), off.to_str().expect("text"));
    assert_eq!(with_base(&[], &[]).resp.as_deref(), Some("127.0.0.1:6379"));
    assert_eq!(with_base(&["--config", on, "--no-resp"], &[]).resp, None);
    assert_eq!(
        with_base(&["--config", on], &[("VSR_NO_RESP", "1")]).resp,
        None
    );
    let config = with_base(&["--config", off, "--resp", "127.0.0.1:0"], &[]);
    assert_eq!(config.resp.as_deref(), Some("127.0.0.1:0"));
    let config = with_base(&["--config", on], &[("VSR_NO_RESP", "false")]);
    assert_eq!(config.resp.as_deref(), Some("0.0.0.0:1"));
}

#[test]
fn the_printed_defaults_read_back_as_the_defaults() {
    let folder = Folder::new("round-trip");
    let text = print_default();
    let file = folder.file("default.toml", &text);
    let (from_file, missing) = Config::check_file(&file).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        missing,
        ["cluster", "replica", "peers"],
        "what has no default"
    );
    let read = from_file
        .with("cluster", "c")
        .and_then(|c| c.with("peers", "a:1,b:1,c:1"));
    let read = read.and_then(|c| c.with("replica", "2")).expect("valid");
    let default = with_base(&[], &[]);
    assert_eq!(read.consensus, default.consensus);
    let words = |config: &Config| -> Vec<(&str, String)> {
        config
            .settings()
            .map(|(name, text, _)| (name, text.to_owned()))
            .collect()
    };
    assert_eq!(words(&read), words(&default));
    let settable = FIELDS
        .iter()
        .filter(|field| field.default.is_some() && field.name != "standby");
    for field in settable {
        assert!(
            text.contains(&format!("\n{} = ", field.name)),
            "{} is not in the file",
            field.name
        );
    }
    assert!(text.lines().all(|line| line.len() <= 100));
}

#[test]
fn the_defaults_of_the_table_are_those_of_the_replica() {
    let config = with_base(&[], &[]);
    let settings = vsr_consensus::Settings::new(vsr_types::ReplicaIndex::new(2), 3);
    assert_eq!(*config.consensus, settings);
}

#[test]
fn a_library_opens_no_port_unless_asked() {
    let config = Config::new("c", "127.0.0.1:7000", 0).expect("valid");
    assert_eq!(
        (config.resp.as_deref(), config.admin.as_deref()),
        (None, None)
    );
    let config = config.with("resp", "127.0.0.1:0").expect("valid");
    assert_eq!(config.resp.as_deref(), Some("127.0.0.1:0"));
}

#[test]
fn a_password_comes_from_a_file_and_is_never_printed() {
    let folder = Folder::new("password");
    let file = folder.file("secret", "open sesame\n");
    let config = with_base(&["--requirepass-file", file.to_str().expect("text")], &[]);
    let password = config.password.as_ref().expect("set");
    assert_eq!(password.expose(), "open sesame");
    assert!(!format!("{config:?}").contains("sesame"));
}

#[test]
fn every_setting_is_a_flag_and_appears_in_the_help() {
    let help = Flags::augment_args(Command::new("start"))
        .render_long_help()
        .to_string();
    for field in FIELDS {
        assert!(
            help.contains(&format!("--{}", field.name)),
            "{} is not in the help",
            field.name
        );
        assert_eq!(field.value.is_empty(), field.shape == Shape::Switch);
    }
}

#[test]
fn checking_a_file_needs_no_replica_but_finds_mistakes() {
    let folder = Folder::new("check");
    let good = folder.file(
        "good.toml",
        "cluster = \"c\"\npeers = [\"a:1\", \"b:1\", \"c:1\"]\n",
    );
    let (_, missing) = Config::check_file(&good).expect("valid");
    assert_eq!(missing, ["replica"]);
    let bad = folder.file(
        "bad.toml",
        "cluster = \"c\"\n\npeers = [\"a:1\", \"a:1\"]\ncolour = 1\n",
    );
    let error = Config::check_file(&bad).expect_err("an unknown key");
    assert_eq!(error.problems[0].field, "colour");
    assert!(Config::check_file(Path::new("/nowhere/at/all.toml")).is_err());
}

#[test]
fn a_misspelt_variable_is_noticed_and_others_are_left_alone() {
    let names = [
        "VSR_JOURNAL_SLOT",
        "VSR_TICK",
        "VSR_CONFIG",
        "VSR_ENDPOINTS",
        "PATH",
        "VSR_SVC_HOST",
    ];
    let found = vsr_node::config::misspelt_variables(names.into_iter());
    assert_eq!(
        found,
        [("VSR_JOURNAL_SLOT", "VSR_JOURNAL_SLOTS".to_owned())]
    );
}

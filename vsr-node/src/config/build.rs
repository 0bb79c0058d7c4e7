//! From words to a [`Config`]: every value parsed, every relation checked, every mistake reported.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vsr_consensus::{OnOpMax, Settings};
use vsr_types::{ReplicaIndex, limits};

use super::error::{ConfigError, Origin, Problem};
use super::fields::{self, Shape};
use super::layers::{Layers, Value};
use super::parse::{self, Port, Wrong};
use super::{Config, LogFormat, Password};
use crate::doubt::OnDoubt;
use crate::gateway::{BUFFERS_MAX, BUFFERS_MIN};
use crate::kv::{MEMORY_MAX, MEMORY_MIN};

/// The longest password; longer ones are files named by mistake.
const PASSWORD_MAX: usize = 512;

/// Reads values and remembers what was wrong with them.
struct Reader {
    layers: Layers,
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, name: &str, (wrong, right): Wrong) {
        let value = self.layers.get(name);
        self.problems.push(Problem {
            field: name.into(),
            given: value.map(|value| value.text.clone()),
            origin: value.map_or(Origin::Default, |value| value.origin.clone()),
            wrong,
            right,
        });
    }

    /// The value of `name`, if it was given and is right.
    fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let parsed = parse(&self.layers.get(name)?.text);
        parsed.map_err(|wrong| self.problem(name, wrong)).ok()
    }

    /// The value of `name`, which must be given and right.
    fn required<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        if self.layers.get(name).is_none() {
            let variable = fields::find(name)
                .map(fields::Field::variable)
                .unwrap_or_default();
            let right = format!("--{name}, or {variable}, or {name} in the file of --config");
            self.problem(name, ("missing".into(), right));
            return None;
        }
        self.optional(name, parse)
    }

    /// A number from `least` to `most`; a wrong one is reported and replaced by `least`.
    fn number(&mut self, name: &str, least: u64, most: u64) -> u64 {
        let parse = |text: &str| {
            let number = parse::number(text)?;
            if (least..=most).contains(&number) {
                return Ok(number);
            }
            Err((
                format!("{number} is out of range"),
                format!("a number from {least} to {most}"),
            ))
        };
        self.optional(name, parse).unwrap_or(least)
    }

    fn size(&mut self, name: &str) -> usize {
        self.optional(name, parse::size).unwrap_or_default()
    }

    fn duration(&mut self, name: &str) -> Duration {
        self.optional(name, parse::duration).unwrap_or_default()
    }

    fn switch(&mut self, name: &str) -> bool {
        self.optional(name, parse::switch).unwrap_or_default()
    }

    /// An address that `off` may switch off. Whoever speaks from the stronger place wins; from the
    /// same place, the two contradict each other.
    fn port(&mut self, name: &'static str, off: &'static str) -> Option<String> {
        let address = self.optional(name, |text| parse::address(text, Port::MayBeZero));
        if !self.switch(off) {
            return address;
        }
        let rank = |value: Option<&Value>| value.map_or(0, |value| value.origin.rank());
        let (on_rank, off_rank) = (rank(self.layers.get(name)), rank(self.layers.get(off)));
        if on_rank == off_rank && on_rank > 0 {
            let wrong = format!("--{name} and --{off} contradict each other");
            self.problem(
                name,
                (wrong, format!("one of the two, --{name} or --{off}")),
            );
        }
        if on_rank > off_rank { address } else { None }
    }
}

/// Builds the configuration out of what was said.
pub(super) fn build(layers: Layers) -> Result<Config, ConfigError> {
    let mut reader = Reader {
        layers,
        problems: Vec::new(),
    };
    refuse_what_is_not_built_yet(&mut reader);
    let cluster = reader.required("cluster", parse::cluster);
    let peers = reader.required("peers", parse::peers);
    // When the list is wrong, that is said; any place in any list will do for the rest.
    let listed = peers.as_ref().map(|peers| peers.len() as u8);
    let replicas = listed.unwrap_or(limits::REPLICAS_MAX as u8);
    let replica = reader.required("replica", |text| replica_index(text, listed));
    let listen = reader.optional("listen", |text| parse::address(text, Port::Fixed));
    let resp = reader.port("resp", "no-resp");
    let admin = reader.port("admin", "no-admin");
    let memory = size_between(&mut reader, "memory", MEMORY_MIN, MEMORY_MAX);
    let resp_buffers = size_between(&mut reader, "resp-buffers", BUFFERS_MIN, BUFFERS_MAX);
    let settings = settings(&mut reader, replica.unwrap_or_default(), replicas);
    let archive_dir = archive_dir(&mut reader, settings.on_op_max);
    let client_timeout = at_least_a_tick(&mut reader, "client-timeout", settings.tick);
    let drain_timeout = reader.duration("drain-timeout");
    let spin = reader.duration("spin");
    let resp_lanes = reader.number("resp-lanes", 1, 64) as usize;
    let clients_max = reader.number("clients-max", 1, 65_536) as usize;
    let connections_max = reader.number("connections-max", 1, 4096) as usize;
    let residence = ["no-prefault", "mlock", "huge-pages"].map(|name| reader.switch(name));
    let password = reader.optional("requirepass-file", read_password);
    let words = words(&mut reader);
    let consensus = if reader.problems.is_empty() {
        validated(&mut reader, settings)
    } else {
        None
    };
    let Reader { layers, problems } = reader;
    let (
        Some(cluster),
        Some(peers),
        Some(replica),
        Some(consensus),
        Some((on_doubt, log_level, log_format)),
    ) = (cluster, peers, replica, consensus, words)
    else {
        return Err(ConfigError { problems });
    };
    assert!(problems.is_empty(), "nothing is validated beside a problem");
    Ok(Config {
        listen: listen.unwrap_or_else(|| peers[replica.as_usize()].clone()),
        cluster,
        peers,
        resp,
        admin,
        memory,
        prefault: !residence[0],
        mlock: residence[1],
        huge_pages: residence[2],
        consensus,
        archive_dir,
        spin,
        client_timeout,
        drain_timeout,
        resp_lanes,
        clients_max,
        resp_buffers,
        connections_max,
        password,
        on_doubt,
        log_level,
        log_format,
        layers,
    })
}

/// What is one of a few words.
fn words(reader: &mut Reader) -> Option<(OnDoubt, tracing::Level, LogFormat)> {
    let on_doubt = reader.optional("on-doubt", on_doubt);
    let log_level = reader.optional("log-level", log_level);
    let log_format = reader.optional("log-format", log_format);
    Some((on_doubt?, log_level?, log_format?))
}

fn size_between(reader: &mut Reader, name: &str, least: usize, most: usize) -> usize {
    let size = reader.size(name);
    if !(least..=most).contains(&size) && !has_problem(reader, name) {
        let [given, least, most] = [size, least, most].map(parse::show_size);
        let wrong = format!("{given} is out of range");
        reader.problem(name, (wrong, format!("from {least} to {most}")));
    }
    size
}

fn has_problem(reader: &Reader, name: &str) -> bool {
    reader.problems.iter().any(|problem| problem.field == name)
}

fn refuse_what_is_not_built_yet(reader: &mut Reader) {
    if reader.switch("standby") {
        let right = "leave it out; every replica of the list votes in this version";
        reader.problem(
            "standby",
            (
                "standby replicas are not in this version".into(),
                right.into(),
            ),
        );
    }
    for name in ["tls-cert", "tls-key", "tls-ca"] {
        if reader.layers.get(name).is_some() {
            let right = "leave it out, and keep the ports on a private network or in a tunnel";
            reader.problem(name, ("TLS is not in this version".into(), right.into()));
        }
    }
}

/// Where epochs are archived: said if, and only if, they are.
fn archive_dir(reader: &mut Reader, mode: OnOpMax) -> Option<PathBuf> {
    const RIGHT: &str = "a folder that exists and that this process may write into";
    let is_given = reader.layers.get("archive-dir").is_some();
    if has_problem(reader, "on-op-max") {
        return None;
    }
    match (mode, is_given) {
        (OnOpMax::Archive, true) => {}
        (OnOpMax::Archive, false) => {
            let right = "--archive-dir, the folder for the archives, or --on-op-max reset or halt";
            let wrong = "archive needs a folder".to_owned();
            reader.problem("on-op-max", (wrong, right.into()));
            return None;
        }
        (OnOpMax::Halt | OnOpMax::Reset, false) => return None,
        (OnOpMax::Halt | OnOpMax::Reset, true) => {
            let wrong = format!("nothing is archived with --on-op-max {}", mode.name());
            let right = "--on-op-max archive, or no --archive-dir".into();
            reader.problem("archive-dir", (wrong, right));
            return None;
        }
    }
    reader.optional("archive-dir", |text| {
        let is = |what: String| (what, RIGHT.to_owned());
        let about =
            std::fs::metadata(text).map_err(|error| is(format!("cannot be read: {error}")))?;
        if !about.is_dir() {
            return Err(is("not a folder".into()));
        }
        if about.permissions().readonly() {
            return Err(is("read-only".into()));
        }
        Ok(PathBuf::from(text))
    })
}

fn on_op_max(text: &str) -> Result<OnOpMax, Wrong> {
    let mut modes = OnOpMax::ALL.into_iter();
    let found = modes.find(|mode| mode.name() == text);
    found.ok_or_else(|| ("not a choice".into(), "archive, reset or halt".into()))
}

/// The place in a list of so many; none: the list is not known.
fn replica_index(text: &str, listed: Option<u8>) -> Result<ReplicaIndex, Wrong> {
    let number = parse::number(text)?;
    let replicas = listed.unwrap_or(limits::REPLICAS_MAX as u8);
    match u8::try_from(number) {
        Ok(index) if index < replicas => Ok(ReplicaIndex::new(index)),
        _ => Err((
            match listed {
                Some(replicas) => format!("there is no replica {number} in a list of {replicas}"),
                None => format!("there is no replica {number} in any cluster"),
            },
            match replicas {
                1 => "0".into(),
                _ => format!("a number from 0 to {}", replicas - 1),
            },
        )),
    }
}

fn settings(reader: &mut Reader, replica: ReplicaIndex, replicas: u8) -> Settings {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Settings {
        journal_slots: count(reader.number("journal-slots", 4, 1 << 30)),
        journal_bytes: reader.size("journal-size"),
        sessions: count(reader.number("sessions", 1, 1 << 24)),
        reply_bytes: reader.size("reply-size"),
        batch_size_max: reader.size("batch-max"),
        pipeline: count(reader.number("pipeline", 1, limits::PIPELINE_MAX as u64)),
        op_max: reader.number("op-max", 1, limits::NUMBER_MAX),
        on_op_max: reader.optional("on-op-max", on_op_max).unwrap_or_default(),
        chain: !reader.switch("no-chain"),
        tick: reader.duration("tick"),
        view_timeout: reader.duration("view-timeout"),
        prepare_timeout: reader.duration("prepare-timeout"),
        digest_period: reader.duration("digest-period"),
        scrub_period: reader.duration("scrub-period"),
        transfer_rate: reader.size("transfer-rate") as u64,
        ..Settings::new(replica, replicas)
    }
}

fn at_least_a_tick(reader: &mut Reader, name: &str, tick: Duration) -> Duration {
    let duration = reader.duration(name);
    if duration < tick && !has_problem(reader, name) {
        let wrong = format!("{} is shorter than a tick", parse::show_duration(duration));
        reader.problem(
            name,
            (wrong, format!("at least {}", parse::show_duration(tick))),
        );
    }
    duration
}

/// Asks the replica's own validation, and puts its answer into the words of the settings.
fn validated(reader: &mut Reader, settings: Settings) -> Option<vsr_consensus::Config> {
    use vsr_consensus::ConfigError::{TooLarge, TooSmall};
    let error = match settings.validate() {
        Ok(config) => return Some(config),
        Err(error) => error,
    };
    let (field, value, bound, word) = match error {
        TooSmall {
            field,
            value,
            least,
        } => (field, value, least, "least"),
        TooLarge { field, value, most } => (field, value, most, "most"),
    };
    let show = |value: usize| match fields::find(field).map(|field| field.shape) {
        Some(Shape::Duration) => parse::show_duration(Duration::from_nanos(value as u64)),
        Some(Shape::Size) => format!("{value} bytes ({})", parse::show_size(value)),
        _ => value.to_string(),
    };
    let wrong = format!(
        "{} is too {}",
        show(value),
        if word == "least" { "small" } else { "large" }
    );
    reader.problem(
        field,
        (
            wrong,
            format!("at {word} {}, given the other settings", show(bound)),
        ),
    );
    None
}

fn read_password(path: &str) -> Result<Password, Wrong> {
    const RIGHT: &str = "a readable file whose first line is the password";
    let text = std::fs::read_to_string(Path::new(path))
        .map_err(|error| (format!("cannot be read: {error}"), RIGHT.to_owned()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    let wrong = match password {
        "" => "the file is empty",
        long if long.len() > PASSWORD_MAX => "longer than 512 bytes",
        lines if lines.contains('\n') => "more than one line",
        _ => return Ok(Password(password.to_owned())),
    };
    Err((wrong.into(), RIGHT.into()))
}

fn on_doubt(text: &str) -> Result<OnDoubt, Wrong> {
    match text {
        "restart" => Ok(OnDoubt::Restart),
        "exit" => Ok(OnDoubt::Exit),
        _ => Err(("not a choice".into(), "restart or exit".into())),
    }
}

fn log_level(text: &str) -> Result<tracing::Level, Wrong> {
    let wrong = || {
        (
            "not a level".to_owned(),
            "error, warn, info, debug or trace".to_owned(),
        )
    };
    if text.parse::<u8>().is_ok() {
        return Err(wrong()); // tracing would take numbers
    }
    text.parse().map_err(|_| wrong())
}

fn log_format(text: &str) -> Result<LogFormat, Wrong> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(("not a format".into(), "text or json".into())),
    }
}

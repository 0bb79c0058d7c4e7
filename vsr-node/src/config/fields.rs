//! Every setting once: its name, its default, its words.
//!
//! The command line, the environment, the TOML file, `config print-default` and the error messages
//! are all made from this one table, so that none of them can know a setting that another does not.

/// What shape a setting's value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any text.
    Text,
    /// A whole number.
    Number,
    /// A number of bytes, such as `512MiB`.
    Size,
    /// A duration, such as `100ms`.
    Duration,
    /// On or off; on the command line a flag without a value.
    Switch,
    /// Addresses, separated by commas; in TOML also a list of strings.
    List,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name: `--<name>`, the TOML key, and in capitals the environment variable.
    pub name: &'static str,
    /// What the value looks like in the help.
    pub value: &'static str,
    /// The shape of the value.
    pub shape: Shape,
    /// The default as a user would write it; none: not set.
    pub default: Option<&'static str>,
    /// What it means, one sentence or two.
    pub help: &'static str,
}

impl Field {
    /// The name of the environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("VSR_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

const fn field(
    name: &'static str,
    value: &'static str,
    shape: Shape,
    default: Option<&'static str>,
    help: &'static str,
) -> Field {
    Field {
        name,
        value,
        shape,
        default,
        help,
    }
}

use Shape::{Duration, List, Number, Size, Switch, Text};

/// All settings, in the order in which help and `config print-default` show them.
pub const FIELDS: &[Field] = &[
    field(
        "cluster",
        "NAME",
        Text,
        None,
        "The cluster's name; replicas and clients that name another one are refused.",
    ),
    field(
        "replica",
        "INDEX",
        Number,
        None,
        "Which entry of the peers list this process is, from 0.",
    ),
    field(
        "peers",
        "LIST",
        List,
        None,
        "host:port of every replica: the same list in the same order everywhere. 1, 3, 5 or 7 entries make sense; DNS names are resolved at every dial.",
    ),
    field(
        "listen",
        "ADDR",
        Text,
        None,
        "Where peers, native clients and vsr-cli connect [default: this replica's entry of peers].",
    ),
    field(
        "resp",
        "ADDR",
        Text,
        Some("127.0.0.1:6379"),
        "Where Redis clients connect.",
    ),
    field(
        "no-resp",
        "",
        Switch,
        Some("false"),
        "No port for Redis clients.",
    ),
    field(
        "admin",
        "ADDR",
        Text,
        Some("127.0.0.1:9100"),
        "Where /metrics, /livez, /readyz and /status are served.",
    ),
    field("no-admin", "", Switch, Some("false"), "No admin port."),
    field(
        "memory",
        "SIZE",
        Size,
        Some("512MiB"),
        "Memory of the key-value machine, the same on every replica; over it, writes answer -OOM. All of it is reserved at start.",
    ),
    field(
        "no-prefault",
        "",
        Switch,
        Some("false"),
        "Memory becomes resident when it is first used, instead of at the start: a quicker start, and page faults later.",
    ),
    field(
        "mlock",
        "",
        Switch,
        Some("false"),
        "Lock all memory, so that nothing is ever swapped. A warning says so when the system does not allow it.",
    ),
    field(
        "huge-pages",
        "",
        Switch,
        Some("false"),
        "Use huge pages: reserved ones (vm.nr_hugepages) if there are enough, else transparent ones. A warning says so when none come.",
    ),
    field(
        "sessions",
        "N",
        Number,
        Some("4096"),
        "How many client sessions are remembered; the least recently used is evicted.",
    ),
    field(
        "journal-slots",
        "N",
        Number,
        Some("65536"),
        "How many batches the journal holds at most.",
    ),
    field(
        "journal-size",
        "SIZE",
        Size,
        Some("256MiB"),
        "How many bytes of batches the journal holds at most: how far back a lagging replica can catch up.",
    ),
    field(
        "reply-size",
        "SIZE",
        Size,
        Some("32MiB"),
        "Memory for the last reply of every session.",
    ),
    field(
        "batch-max",
        "SIZE",
        Size,
        Some("1048448B"),
        "The largest batch of operations, and so the largest operation.",
    ),
    field(
        "pipeline",
        "N",
        Number,
        Some("32"),
        "How many batches may be on their way at once.",
    ),
    field(
        "op-max",
        "N",
        Number,
        Some("4611686018427387904"),
        "The last op number of an epoch, the same on every replica. Ops are counted from 1 again in the next one.",
    ),
    field(
        "on-op-max",
        "WHAT",
        Text,
        Some("halt"),
        "What happens at the last op number: halt (writes are refused, reads go on), reset (the next epoch begins at once) or archive (it begins when the primary has written the state to --archive-dir; clients wait meanwhile).",
    ),
    field(
        "archive-dir",
        "DIR",
        Text,
        None,
        "The folder for the archives of --on-op-max archive, one file per epoch.",
    ),
    field(
        "no-chain",
        "",
        Switch,
        Some("false"),
        "The primary sends every batch to every backup, instead of down a chain.",
    ),
    field(
        "tick",
        "DUR",
        Duration,
        Some("10ms"),
        "The unit of all time-outs, and the primary's heartbeat.",
    ),
    field(
        "view-timeout",
        "DUR",
        Duration,
        Some("100ms"),
        "How long a backup waits for its primary before it suspects it.",
    ),
    field(
        "prepare-timeout",
        "DUR",
        Duration,
        Some("50ms"),
        "How long a backup may take to acknowledge before the chain goes round it.",
    ),
    field(
        "spin",
        "DUR",
        Duration,
        Some("50us"),
        "How long the loop looks for more before it sleeps: lower latency for a little CPU; 0us: not at all.",
    ),
    field(
        "client-timeout",
        "DUR",
        Duration,
        Some("5s"),
        "How long a Redis client waits for a quorum before -CLUSTERDOWN.",
    ),
    field(
        "drain-timeout",
        "DUR",
        Duration,
        Some("10s"),
        "How long SIGTERM waits for what is in flight.",
    ),
    field(
        "digest-period",
        "DUR",
        Duration,
        Some("100ms"),
        "Replicas compare the digests of their states once in every such period of replicated time.",
    ),
    field(
        "transfer-rate",
        "SIZE",
        Size,
        Some("768MiB"),
        "How much state per second a replica asks for that takes over another's. The donor serves clients \
         meanwhile.",
    ),
    field(
        "scrub-period",
        "DUR",
        Duration,
        Some("10m"),
        "Everything in memory is verified once within this time, whether or not it is used.",
    ),
    field(
        "on-doubt",
        "WHAT",
        Text,
        Some("restart"),
        "What a process does whose state is not a majority's (code 4) or whose protocol memory has changed by itself (code 5): restart in place with nothing and recover, or exit.",
    ),
    field(
        "resp-lanes",
        "N",
        Number,
        Some("2"),
        "Over how many sessions the RESP port spreads its connections.",
    ),
    field(
        "connections-max",
        "N",
        Number,
        Some("20"),
        "The most connections of native clients and tools; each has buffers of 3 MiB.",
    ),
    field(
        "clients-max",
        "N",
        Number,
        Some("10000"),
        "The most connections of Redis clients.",
    ),
    field(
        "resp-buffers",
        "SIZE",
        Size,
        Some("32MiB"),
        "Memory that Redis clients share for commands, transactions and replies on their way; a client waits when it is used up. All of it is reserved at start.",
    ),
    field(
        "requirepass-file",
        "FILE",
        Text,
        None,
        "A file with the password that Redis clients must give with AUTH or HELLO.",
    ),
    field(
        "standby",
        "",
        Switch,
        Some("false"),
        "Not in this version: a replica outside the quorum that holds a copy.",
    ),
    field(
        "tls-cert",
        "FILE",
        Text,
        None,
        "Not in this version: the certificate of this replica.",
    ),
    field(
        "tls-key",
        "FILE",
        Text,
        None,
        "Not in this version: its private key.",
    ),
    field(
        "tls-ca",
        "FILE",
        Text,
        None,
        "Not in this version: who may sign certificates.",
    ),
    field(
        "log-level",
        "LEVEL",
        Text,
        Some("info"),
        "error, warn, info, debug or trace.",
    ),
    field(
        "log-format",
        "FORMAT",
        Text,
        Some("text"),
        "text, or json: one object per line.",
    ),
];

/// The setting called `name`.
#[must_use]
pub(super) fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == name)
}

/// The setting whose name is most like `name`, if any is close enough to be meant.
#[must_use]
pub(super) fn nearest(name: &str) -> Option<&'static Field> {
    let wanted = name.to_ascii_lowercase().replace('_', "-");
    FIELDS
        .iter()
        .map(|field| (distance(&wanted, field.name), field))
        .filter(|(distance, field)| *distance <= 1 + field.name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, field)| field)
}

/// How many characters must be inserted, removed or replaced to get from `a` to `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_kebab_case() {
        for (i, field) in FIELDS.iter().enumerate() {
            assert!(
                FIELDS[..i].iter().all(|other| other.name != field.name),
                "{}",
                field.name
            );
            assert!(
                field
                    .name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '-')
            );
            assert!(!field.help.is_empty());
        }
    }

    #[test]
    fn a_misspelt_name_finds_the_right_one_and_nonsense_finds_none() {
        let near = |name| nearest(name).map(|field| field.name);
        assert_eq!(near("journal_slots"), Some("journal-slots"));
        assert_eq!(near("sesions"), Some("sessions"));
        assert_eq!(near("peer"), Some("peers"));
        assert_eq!(near("colour-of-the-sky"), None);
    }
}

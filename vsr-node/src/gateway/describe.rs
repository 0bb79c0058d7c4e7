//! The long answers: what clients ask on connecting and what people ask when they look around.
//!
//! `HELLO`, `CLIENT`, `COMMAND`, `INFO`, `CONFIG`, `TIME`, `ROLE`, `WAIT`, `CLUSTER`. None of them is
//! on the hot path, so they may allocate what they need while they are put together, and give it back.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vsr_types::{ReplicaIndex, message::PeerStatus};

use super::commands::{BAD_NAME, Call, LONG_NAME, is_integer, is_printable, repeated};
use super::connection::Connection;
use super::core::{Core, Step};
use crate::kv::{CommandSpec, Opcode, ReplyReader, commands, lookup};
use crate::resp::{ReplyText, Writer};

/// The number of slots of a Redis Cluster.
const SLOTS: i64 = 16_384;

/// The longest `CLIENT LIST`, in bytes: that of some two thousand connections.
const LIST_MAX: usize = vsr_types::limits::REPLY_SIZE_MAX / 2;

impl Core {
    /// The answer to a good `HELLO`.
    pub(super) fn describe_hello(&mut self, slot: u32) -> Step {
        let version = self.options.redis_version;
        let connection = self.table.at(slot);
        let (number, protocol) = (connection.number, connection.protocol);
        self.reply(slot, |writer| {
            writer.map(7);
            writer.bulk(b"server");
            writer.bulk(b"redis");
            writer.bulk(b"version");
            writer.bulk(version.as_bytes());
            writer.bulk(b"proto");
            writer.integer(protocol.number());
            writer.bulk(b"id");
            writer.integer(number as i64);
            writer.bulk(b"mode");
            writer.bulk(b"standalone");
            writer.bulk(b"role");
            writer.bulk(ROLE.as_bytes());
            writer.bulk(b"modules");
            writer.array(0);
        })
    }

    /// `CLIENT`.
    pub(super) fn client(&mut self, slot: u32, call: Call<'_>) -> Step {
        let name = String::from_utf8_lossy(repeated(call.get(1))).to_ascii_lowercase();
        let arity: Option<&[usize]> = match name.as_str() {
            "id" | "getname" | "info" | "help" => Some(&[2]),
            "setname" | "reply" | "no-evict" | "no-touch" => Some(&[3]),
            "setinfo" => Some(&[4]),
            _ => None,
        };
        if arity.is_some_and(|counts| !counts.contains(&call.count())) {
            return self.error(slot, ReplyText::arity(&format!("client|{name}")));
        }
        match name.as_str() {
            "id" => {
                let number = self.table.at(slot).number;
                self.reply(slot, |writer| writer.integer(number as i64))
            }
            "getname" => {
                let name = self.table.at(slot).name;
                self.reply(slot, |writer| match name.get() {
                    b"" => writer.null(),
                    name => writer.bulk(name),
                })
            }
            "setname" if !is_printable(call.get(2)) => self.error(slot, BAD_NAME),
            "setname" if self.table.at(slot).name.set(call.get(2)) => self.ok(slot),
            "setname" => self.error(slot, LONG_NAME),
            "setinfo" => self.client_setinfo(slot, call),
            "info" => {
                let line = self.client_line(self.table.get(slot).expect("is open"));
                self.reply(slot, |writer| writer.text(&line))
            }
            "list" => {
                let mut lines = String::new();
                for (_, connection) in self.table.iter() {
                    lines.push_str(&self.client_line(connection));
                    if lines.len() > LIST_MAX {
                        break;
                    }
                }
                if lines.len() > LIST_MAX {
                    return self.error(slot, "ERR the list is too long; ask for CLIENT INFO");
                }
                self.reply(slot, |writer| writer.text(&lines))
            }
            "no-evict" | "no-touch" if call.is(2, "on") || call.is(2, "off") => self.ok(slot),
            "no-evict" | "no-touch" => self.error(slot, "ERR syntax error"),
            "reply" => self.client_reply(slot, call),
            "help" => self.help(slot, "CLIENT", CLIENT_HELP),
            _ => self.error(slot, ReplyText::unknown_subcommand("CLIENT", call.get(1))),
        }
    }

    fn client_setinfo(&mut self, slot: u32, call: Call<'_>) -> Step {
        let value = call.get(3);
        if !is_printable(value) {
            let option = String::from_utf8_lossy(repeated(call.get(2))).into_owned();
            return self.error(
                slot,
                format!("ERR {option} cannot contain spaces, newlines or special characters."),
            );
        }
        let connection = self.table.at(slot);
        let fits = if call.is(2, "lib-name") {
            connection.library.set(value)
        } else if call.is(2, "lib-ver") {
            connection.library_version.set(value)
        } else {
            let mut text = b"ERR Unrecognized option '".to_vec();
            text.extend_from_slice(repeated(call.get(2)));
            text.push(b'\'');
            return self.error(slot, text);
        };
        if fits {
            self.ok(slot)
        } else {
            self.error(slot, LONG_NAME)
        }
    }

    fn client_line(&self, connection: &Connection) -> String {
        let address =
            |address: Option<SocketAddr>| address.map_or(String::new(), |at| at.to_string());
        format!(
            "id={} addr={} laddr={} name={} age={} idle={} flags={} db=0 multi={} qbuf={} omem={} cmd={} user=default resp={} lib-name={} lib-ver={} lane={} outstanding={}\n",
            connection.number,
            address(connection.peer),
            address(connection.local),
            String::from_utf8_lossy(connection.name.get()),
            self.now.since(connection.since).as_secs(),
            self.now.since(connection.heard).as_secs(),
            if connection.read_only { "r" } else { "N" },
            if connection.transaction.is_open() {
                0
            } else {
                -1
            },
            connection.input.capacity(),
            connection.output.size(),
            connection.last_command,
            connection.protocol.number(),
            String::from_utf8_lossy(connection.library.get()),
            String::from_utf8_lossy(connection.library_version.get()),
            connection.lane,
            connection.outstanding(),
        )
    }

    fn help(&mut self, slot: u32, container: &str, lines: &[&str]) -> Step {
        self.reply(slot, |writer| {
            writer.array(lines.len() + 1);
            writer.simple(&format!(
                "{container} <subcommand> [<arg> ...]. Subcommands are:"
            ));
            for line in lines {
                writer.simple(line);
            }
        })
    }

    /// `COMMAND`.
    pub(super) fn command(&mut self, slot: u32, call: Call<'_>) -> Step {
        let named = || call.from(2).map(lookup);
        if call.count() == 1 {
            return self.reply(slot, |writer| {
                writer.array(commands().len());
                commands()
                    .iter()
                    .for_each(|spec| write_command(writer, spec));
            });
        }
        if call.is(1, "count") && call.count() == 2 {
            self.reply(slot, |writer| writer.integer(commands().len() as i64))
        } else if call.is(1, "list") && call.count() == 2 {
            self.reply(slot, |writer| {
                writer.array(commands().len());
                commands()
                    .iter()
                    .for_each(|spec| writer.bulk(spec.name.as_bytes()));
            })
        } else if call.is(1, "info") && call.count() == 2 {
            self.reply(slot, |writer| {
                writer.array(commands().len());
                commands()
                    .iter()
                    .for_each(|spec| write_command(writer, spec));
            })
        } else if call.is(1, "info") {
            self.reply(slot, |writer| {
                writer.array(named().len());
                for spec in named() {
                    match spec {
                        Some(spec) => write_command(writer, spec),
                        None => writer.null_array(),
                    }
                }
            })
        } else if call.is(1, "docs") {
            let all = call.count() == 2;
            let chosen: Vec<&CommandSpec> = if all {
                commands().iter().collect()
            } else {
                named().flatten().collect()
            };
            self.reply(slot, |writer| {
                writer.map(chosen.len());
                chosen.iter().for_each(|spec| write_docs(writer, spec));
            })
        } else {
            self.error(slot, ReplyText::unknown_subcommand("COMMAND", call.get(1)))
        }
    }

    /// `CONFIG`.
    pub(super) fn config(&mut self, slot: u32, call: Call<'_>) -> Step {
        if call.is(1, "get") && call.count() >= 3 {
            let parameters = self.parameters();
            let matching = |name: &str| {
                call.from(2)
                    .any(|pattern| matches_glob(&pattern.to_ascii_lowercase(), name.as_bytes()))
            };
            let chosen: Vec<_> = parameters
                .iter()
                .filter(|(name, _)| matching(name))
                .collect();
            self.reply(slot, |writer| {
                writer.map(chosen.len());
                for (name, value) in chosen {
                    writer.bulk(name.as_bytes());
                    writer.bulk(value.as_bytes());
                }
            })
        } else if call.is(1, "set") && call.count() >= 4 && call.count().is_multiple_of(2) {
            let name = String::from_utf8_lossy(repeated(call.get(2))).to_ascii_lowercase();
            let known = self
                .parameters()
                .iter()
                .any(|(parameter, _)| *parameter == name);
            self.error(
                slot,
                if known {
                    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - can't set immutable config")
                } else {
                    format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
                },
            )
        } else if call.is(1, "resetstat") && call.count() == 2 {
            self.counters.reset();
            self.ok(slot)
        } else if ["get", "set", "resetstat"]
            .iter()
            .any(|name| call.is(1, name))
        {
            let name = String::from_utf8_lossy(call.get(1)).to_ascii_lowercase();
            self.error(slot, ReplyText::arity(&format!("config|{name}")))
        } else {
            self.error(slot, ReplyText::unknown_subcommand("CONFIG", call.get(1)))
        }
    }

    /// What `CONFIG GET` knows. None can be changed while running.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let options = &self.options;
        vec![
            ("appendonly", "no".to_owned()),
            ("bind", String::new()),
            ("databases", "1".to_owned()),
            ("maxclients", options.clients_max.to_string()),
            ("maxmemory-policy", "noeviction".to_owned()),
            ("proto-max-bulk-len", options.command_size_max.to_string()),
            ("save", String::new()),
            (
                "timeout",
                options
                    .idle_timeout
                    .map_or(0, |timeout| timeout.as_secs())
                    .to_string(),
            ),
            (
                "vsr-client-timeout-ms",
                options.client_timeout.as_millis().to_string(),
            ),
            ("vsr-lanes", options.lanes.to_string()),
            ("vsr-pack-size", options.pack_size.to_string()),
        ]
    }

    /// `TIME`, by this machine's clock.
    pub(super) fn time(&mut self, slot: u32) -> Step {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        self.reply(slot, |writer| {
            writer.array(2);
            writer.bulk(now.as_secs().to_string().as_bytes());
            writer.bulk(now.subsec_micros().to_string().as_bytes());
        })
    }

    /// `ROLE`: the truth about this replica, in Redis's shape. Replicas are named by their place in
    /// the list of peers, since their RESP addresses are not known here.
    pub(super) fn role(&mut self, slot: u32) -> Step {
        let report = self.cluster.report();
        let others: Vec<_> = ReplicaIndex::all(report.replicas)
            .filter(|index| *index != report.replica)
            .map(|index| (index, report.peers[index.as_usize()]))
            .collect();
        self.reply(slot, |writer| {
            if report.primary == report.replica {
                writer.array(3);
                writer.bulk(b"master");
                writer.integer(report.commit.raw() as i64);
                writer.array(others.len());
                for (index, peer) in others {
                    writer.array(3);
                    writer.bulk(index.to_string().as_bytes());
                    writer.bulk(b"0");
                    writer.bulk(peer.op.to_string().as_bytes());
                }
            } else {
                writer.array(5);
                writer.bulk(b"slave");
                writer.bulk(report.primary.to_string().as_bytes());
                writer.integer(0);
                writer.bulk(match report.status {
                    PeerStatus::Normal => b"connected",
                    PeerStatus::Recovering => &b"sync"[..],
                    _ => b"connecting",
                });
                writer.integer(report.applied.raw() as i64);
            }
        })
    }

    /// `WAIT`: an answered write is on a quorum already, so this never waits.
    pub(super) fn wait(&mut self, slot: u32, call: Call<'_>) -> Step {
        if !is_integer(call.get(1)) || !is_integer(call.get(2)) {
            return self.error(slot, "ERR value is not an integer or out of range");
        }
        if call.get(2).starts_with(b"-") {
            return self.error(slot, "ERR timeout is negative");
        }
        let report = self.cluster.report();
        let up_to_date = ReplicaIndex::all(report.replicas)
            .filter(|index| *index != report.replica)
            .filter(|index| report.peers[index.as_usize()].op >= report.commit)
            .count();
        let others_in_quorum = usize::from(report.replicas / 2);
        let holders = up_to_date.max(others_in_quorum);
        self.reply(slot, |writer| writer.integer(holders as i64))
    }

    /// `CLUSTER`: one shard that owns all slots. Clients are told about this node only, since it
    /// takes every command itself.
    pub(super) fn cluster_command(&mut self, slot: u32, call: Call<'_>) -> Step {
        let report = self.cluster.report();
        let id = format!("{:032x}{:08x}", report.cluster.raw(), report.replica.raw());
        let (host, port) = self.announced(slot);
        if call.is(1, "info") {
            let state = if self.ready { "ok" } else { "fail" };
            let text = format!(
                "cluster_enabled:0\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{SLOTS}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{}\r\ncluster_size:1\r\ncluster_current_epoch:{}\r\ncluster_my_epoch:{}\r\n",
                report.replicas, report.epoch, report.epoch,
            );
            self.reply(slot, |writer| writer.text(&text))
        } else if call.is(1, "myid") {
            self.reply(slot, |writer| writer.bulk(id.as_bytes()))
        } else if call.is(1, "nodes") {
            let text = format!(
                "{id} {host}:{port}@0 myself,master - 0 0 {} connected 0-{}\n",
                report.epoch,
                SLOTS - 1,
            );
            self.reply(slot, |writer| writer.text(&text))
        } else if call.is(1, "slots") {
            self.reply(slot, |writer| {
                writer.array(1);
                writer.array(3);
                writer.integer(0);
                writer.integer(SLOTS - 1);
                writer.array(3);
                writer.bulk(host.as_bytes());
                writer.integer(port);
                writer.bulk(id.as_bytes());
            })
        } else if call.is(1, "shards") {
            let offset = report.applied.raw() as i64;
            self.reply(slot, |writer| {
                write_shards(writer, &id, &host, port, offset)
            })
        } else {
            self.error(slot, ReplyText::unknown_subcommand("CLUSTER", call.get(1)))
        }
    }

    fn announced(&mut self, slot: u32) -> (String, i64) {
        if let Some((host, port)) = &self.options.announce {
            return (host.clone(), i64::from(*port));
        }
        let local = self.table.at(slot).local;
        local.map_or((String::new(), 0), |at| {
            (at.ip().to_string(), i64::from(at.port()))
        })
    }

    /// `INFO`.
    pub(super) fn info(&mut self, slot: u32, call: Call<'_>) -> Step {
        let everything = call.count() == 1
            || call
                .from(1)
                .any(|name| is_one_of(name, &["all", "default", "everything"]));
        let wanted =
            |section: &str| everything || call.from(1).any(|name| is_one_of(name, &[section]));
        let mut text = String::new();
        for (section, fields) in self.info_sections(slot) {
            if wanted(&section.to_ascii_lowercase()) {
                let separator = if text.is_empty() { "" } else { "\r\n" };
                let _ = write!(text, "{separator}# {section}\r\n");
                for (name, value) in fields {
                    let _ = write!(text, "{name}:{value}\r\n");
                }
            }
        }
        self.reply(slot, |writer| writer.text(&text))
    }

    fn info_sections(&mut self, slot: u32) -> Vec<Section> {
        let keys = self.keys();
        let (_, port) = self.announced(slot);
        let keyspace = match keys {
            0 => Vec::new(),
            keys => vec![field("db0", format!("keys={keys},expires=0,avg_ttl=0"))],
        };
        vec![
            ("Server", self.info_server(port)),
            (
                "Clients",
                vec![
                    field("connected_clients", self.counters.connected_clients),
                    field("maxclients", self.options.clients_max),
                    field("blocked_clients", 0),
                ],
            ),
            ("Memory", vec![field("maxmemory_policy", "noeviction")]),
            (
                "Persistence",
                vec![
                    // ioredis waits for this to be 0.
                    field("loading", u8::from(!self.ready)),
                    field("async_loading", 0),
                    field("rdb_bgsave_in_progress", 0),
                    field("aof_enabled", 0),
                ],
            ),
            ("Stats", self.info_stats()),
            ("Replication", self.info_replication()),
            ("Cluster", vec![field("cluster_enabled", 0)]),
            ("Keyspace", keyspace),
        ]
    }

    fn info_server(&self, port: i64) -> Vec<Field> {
        let uptime = self.now.since(self.started).as_secs();
        vec![
            field("redis_version", self.options.redis_version),
            field("redis_mode", "standalone"),
            field("vsr_version", env!("CARGO_PKG_VERSION")),
            field("process_id", std::process::id()),
            field("tcp_port", port),
            field("uptime_in_seconds", uptime),
            field("uptime_in_days", uptime / 86_400),
        ]
    }

    fn info_stats(&self) -> Vec<Field> {
        let counters = &self.counters;
        let waiting: usize = self
            .lanes
            .iter()
            .map(|lane| lane.log.depth() + lane.queries.depth())
            .sum();
        vec![
            field("total_connections_received", counters.connections),
            field("total_commands_processed", counters.received_commands),
            field("total_net_input_bytes", counters.input_bytes),
            field("total_net_output_bytes", counters.output_bytes),
            field("rejected_connections", counters.connections_refused),
            field("vsr_requests", counters.requests),
            field("vsr_queries", counters.queries),
            field("vsr_retries", counters.retries),
            field("vsr_waiting_commands", waiting),
        ]
    }

    fn info_replication(&self) -> Vec<Field> {
        let report = self.cluster.report();
        vec![
            field("role", ROLE),
            field("connected_slaves", report.replicas.saturating_sub(1)),
            field("master_repl_offset", report.commit),
            field("vsr_replica", report.replica),
            field("vsr_primary", report.primary),
            field("vsr_is_primary", u8::from(report.primary == report.replica)),
            field(
                "vsr_status",
                format!("{:?}", report.status).to_ascii_lowercase(),
            ),
            field("vsr_epoch", report.epoch),
            field("vsr_view", report.view),
            field("vsr_op", report.op),
            field("vsr_commit", report.commit),
            field("vsr_applied", report.applied),
            field("vsr_sessions", report.sessions),
        ]
    }

    /// How many keys this replica holds.
    fn keys(&mut self) -> u64 {
        if !self.ready {
            return 0;
        }
        self.stale_query.clear();
        if self.stale_query.push(Opcode::DbSize, &[]).is_err() {
            return 0;
        }
        let size = self
            .cluster
            .read_stale(self.stale_query.operation(), &mut self.stale_reply);
        ReplyReader::parse(&self.stale_reply[..size])
            .ok()
            .and_then(|mut replies| replies.next())
            .and_then(|reply| {
                std::str::from_utf8(reply.strip_prefix(b":")?)
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    }
}

/// A line of `INFO`.
type Field = (&'static str, String);
/// A heading of `INFO` and its lines.
type Section = (&'static str, Vec<Field>);

fn field(name: &'static str, value: impl std::fmt::Display) -> Field {
    (name, value.to_string())
}

/// Every replica takes every command, so a client may treat any of them as a master.
const ROLE: &str = "master";

const CLIENT_HELP: &[&str] = &[
    "ID",
    "GETNAME",
    "SETNAME <name>",
    "SETINFO <option> <value>",
    "INFO",
    "LIST",
    "NO-EVICT (ON|OFF)",
    "NO-TOUCH (ON|OFF)",
    "REPLY (ON|OFF|SKIP)",
];

fn is_one_of(name: &[u8], choices: &[&str]) -> bool {
    choices
        .iter()
        .any(|choice| name.eq_ignore_ascii_case(choice.as_bytes()))
}

fn write_shards(writer: &mut Writer<'_>, id: &str, host: &str, port: i64, offset: i64) {
    writer.array(1);
    writer.map(2);
    writer.bulk(b"slots");
    writer.array(2);
    writer.integer(0);
    writer.integer(SLOTS - 1);
    writer.bulk(b"nodes");
    writer.array(1);
    writer.map(7);
    writer.bulk(b"id");
    writer.bulk(id.as_bytes());
    writer.bulk(b"port");
    writer.integer(port);
    writer.bulk(b"ip");
    writer.bulk(host.as_bytes());
    writer.bulk(b"endpoint");
    writer.bulk(host.as_bytes());
    writer.bulk(b"role");
    writer.bulk(b"master");
    writer.bulk(b"replication-offset");
    writer.integer(offset);
    writer.bulk(b"health");
    writer.bulk(b"online");
}

/// One entry of `COMMAND INFO`: name, arity, flags, key positions, categories, tips, key
/// specifications, subcommands.
fn write_command(writer: &mut Writer<'_>, spec: &CommandSpec) {
    writer.array(10);
    writer.bulk(spec.name.as_bytes());
    writer.integer(i64::from(spec.arity));
    let flags: Vec<&str> = spec.flags.names().collect();
    writer.set(flags.len());
    for flag in flags {
        writer.simple(flag);
    }
    writer.integer(i64::from(spec.first_key));
    writer.integer(i64::from(spec.last_key));
    writer.integer(i64::from(spec.key_step));
    writer.set(1);
    writer.simple(&format!("@{}", spec.group));
    writer.array(0);
    writer.array(0);
    writer.array(0);
}

/// One entry of `COMMAND DOCS`.
fn write_docs(writer: &mut Writer<'_>, spec: &CommandSpec) {
    writer.bulk(spec.name.as_bytes());
    writer.map(4);
    for (name, value) in [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group),
        ("complexity", ""),
    ] {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
}

/// Glob patterns with `*` and `?`, which is all that names of parameters need.
fn matches_glob(pattern: &[u8], name: &[u8]) -> bool {
    // The classic two-finger walk: on a mismatch the last star swallows one more byte.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((star_p, star_n)) => {
                    star = Some((star_p, star_n + 1));
                    p = star_p + 1;
                    n = star_n + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

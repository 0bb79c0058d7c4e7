//! `status`: all replicas in one table.
//!
//! Every row is what that replica says of itself; what can only be seen by comparing (lag, diverging
//! digests, who is left out of the chain) is worked out here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use vsr_types::message::InspectTopic;
use vsr_types::{Op, OpMax, limits};

use crate::args::{Global, StatusArgs};
use crate::ask::{self, Answer};
use crate::failure::Failure;
use crate::output::{Block, Format, Report, Screen};
use crate::table::{Cell, Table, Tone};
use crate::units;

/// What a replica says of itself. A field that an older or newer node does not send has its default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) cluster_name: String,
    pub(crate) cluster: Option<String>,
    pub(crate) replica: u8,
    pub(crate) replicas: u8,
    pub(crate) quorum: u8,
    pub(crate) status: String,
    pub(crate) role: String,
    pub(crate) ready: bool,
    pub(crate) reason: String,
    pub(crate) quorum_lost: bool,
    pub(crate) view_changes: u64,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) recovered: Option<Recovered>,
    pub(crate) view: u64,
    pub(crate) primary: u8,
    pub(crate) op: u64,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
    pub(crate) sequence: Option<Sequence>,
    pub(crate) epoch_end: EpochEnd,
    pub(crate) digest: Digest,
    pub(crate) in_flight: u64,
    pub(crate) peers: Vec<Peer>,
    pub(crate) damage: Option<Damage>,
    /// Everything, for programs.
    #[serde(skip)]
    pub(crate) raw: Value,
}

/// Places in the whole sequence of ops, over all epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Sequence {
    pub(crate) op: u64,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
}

/// How far the epoch has come, and what happens when it ends.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct EpochEnd {
    pub(crate) op_max: u64,
    pub(crate) on_op_max: String,
    pub(crate) ops_left: u64,
    pub(crate) warning: String,
    pub(crate) archive_due: Option<u64>,
    pub(crate) archives: Option<Archives>,
}

/// What became of a node's archives.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Archives {
    pub(crate) error: Option<String>,
}

impl Status {
    /// What is compared and subtracted. A node that knows no epochs counts in the whole sequence.
    pub(crate) fn sequence(&self) -> Sequence {
        let (op, commit, applied) = (self.op, self.commit, self.applied);
        self.sequence.unwrap_or(Sequence {
            op,
            commit,
            applied,
        })
    }

    /// What people see of `op`: its number, and its epoch in front where more than one may come.
    fn shown(&self, op: u64) -> Cell {
        match OpMax::new(self.epoch_end.op_max) {
            Some(op_max) if op_max.raw() < limits::NUMBER_MAX => {
                op_max.name(Op::new(op)).to_string().into()
            }
            _ => Cell::number(op),
        }
    }
}

/// What of a replica's memory is damaged.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Damage {
    pub(crate) text: String,
    pub(crate) seconds: f64,
    pub(crate) unrepairable: bool,
}

/// What a replica fetches from the others.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Recovery {
    pub(crate) held_op: u64,
    pub(crate) transfer: Option<Transfer>,
}

/// A state on its way to a replica.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Transfer {
    pub(crate) donor: u8,
    pub(crate) chunks: Option<u64>,
    pub(crate) looked_at: u64,
    pub(crate) bytes: u64,
}

/// How a process got the state of the one before it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Recovered {
    pub(crate) seconds: f64,
    pub(crate) op: u64,
    pub(crate) bytes: u64,
}

/// The digest of a state and the op after which it was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Digest {
    pub(crate) op: u64,
    pub(crate) digest: String,
}

/// What a replica says of another.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Peer {
    pub(crate) replica: u8,
    pub(crate) suspect: bool,
}

/// Asks all replicas.
///
/// # Errors
/// Only when a task of ours stops.
pub(crate) async fn gather(global: &Global) -> Result<Vec<Answer<Status>>, Failure> {
    let answers: Vec<Answer<Value>> = ask::all(global, InspectTopic::Status, 0).await?;
    Ok(answers.into_iter().map(understand).collect())
}

fn understand(answer: Answer<Value>) -> Answer<Status> {
    let result = answer.result.and_then(|raw| {
        let status = Status::deserialize(&raw).map_err(|error| format!("unexpected: {error}"))?;
        Ok(Status { raw, ..status })
    });
    Answer {
        endpoint: answer.endpoint,
        result,
    }
}

/// Prints the table, once or again and again.
///
/// # Errors
/// When no replica answers.
pub(crate) async fn run(args: &StatusArgs, global: &Global, screen: Screen) -> Result<(), Failure> {
    if !args.watch {
        let answers = gather(global).await?;
        ask::somebody(&answers)?;
        return Ok(screen.show(&report(&answers))?);
    }
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            stop = tokio::signal::ctrl_c() => return Ok(stop?),
            _ = ticks.tick() => {}
        }
        let report = report(&gather(global).await?);
        if screen.is_terminal() && screen.format() == Format::Table {
            // To the top left corner, and clear what is below: no flicker, no scrolling.
            screen.write("\u{1b}[H\u{1b}[J")?;
        }
        screen.show(&report)?;
    }
}

/// The table of `answers`.
pub(crate) fn report(answers: &[Answer<Status>]) -> Report {
    let known: Vec<&Status> = answers.iter().filter_map(Answer::get).collect();
    let newest = known
        .iter()
        .map(|status| status.sequence().commit.max(status.sequence().applied))
        .max()
        .unwrap_or(0);
    let diverged = diverged(&known);
    let mut table = Table::new(&[
        "replica",
        "role",
        "status",
        ">view",
        ">changes",
        ">op",
        ">commit",
        ">applied",
        ">lag",
        "digest",
        ">in flight",
        "suspect",
        "ready",
        "endpoint",
    ]);
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for (index, answer) in answers.iter().enumerate() {
        match &answer.result {
            Ok(status) => {
                let lag = newest - status.sequence().applied.min(newest);
                let suspect = suspected(&known, status.replica);
                let bad_digest = diverged.contains(&status.digest.op);
                table.row(row(status, &answer.endpoint, lag, suspect, bad_digest));
                rows.push(to_json(status, &answer.endpoint, lag, suspect));
                notes.extend(note(status));
                notes.extend(damage_note(status));
                notes.extend(epoch_note(status));
            }
            Err(why) => {
                table.row(unreachable_row(index, &answer.endpoint));
                let endpoint = &answer.endpoint;
                rows.push(json!({"endpoint": endpoint, "reachable": false, "error": why}));
                notes.push((format!("{endpoint}: {why}"), Tone::Warn));
            }
        }
    }
    let mut blocks = vec![Block::Title(headline(answers, &known)), Block::Table(table)];
    for op in &diverged {
        let text = format!("the digests at op {op} differ: run `vsr-cli verify`");
        blocks.push(Block::Line(text, Tone::Bad));
    }
    let lines = notes.into_iter();
    blocks.extend(lines.map(|(note, tone)| Block::Line(note, tone)));
    let reachable = known.len();
    let json = json!({"replicas": rows, "reachable": reachable, "diverged": !diverged.is_empty()});
    Report { json, blocks }
}

/// What there is to say of a replica beside its row.
fn note(status: &Status) -> Option<(String, Tone)> {
    let replica = status.replica;
    if !status.ready && !status.reason.is_empty() {
        let tone = if status.quorum_lost {
            Tone::Bad
        } else {
            Tone::Warn
        };
        return Some((format!("R{replica}: {}", status.reason), tone));
    }
    let fetched = |bytes: u64| units::bytes(bytes as f64);
    if let Some(transfer) = status.recovery.as_ref().and_then(|r| r.transfer.as_ref()) {
        let of = transfer.chunks.map_or_else(String::new, |chunks| {
            format!(", {} of {chunks} chunks looked at", transfer.looked_at)
        });
        let (donor, bytes) = (transfer.donor, fetched(transfer.bytes));
        let text = format!("R{replica}: catches up: fetches the state from R{donor} ({bytes}){of}");
        return Some((text, Tone::Warn));
    }
    let Recovered { seconds, op, bytes } = status.recovered.as_ref()?;
    let (took, bytes) = (units::time(seconds * 1e9), fetched(*bytes));
    let text = format!("R{replica}: its process recovered in {took}, up to op {op} ({bytes})");
    Some((text, Tone::Dim))
}

/// What there is to say of a primary's epoch: that it ends soon, that it is being archived, or cannot be.
fn epoch_note(status: &Status) -> Option<(String, Tone)> {
    if status.role != "primary" {
        return None;
    }
    let end = &status.epoch_end;
    let then = match end.on_op_max.as_str() {
        "halt" => "then nothing can be written",
        "archive" => "then the epoch is archived",
        _ => "",
    };
    if let Some(epoch) = end.archive_due {
        let error = end.archives.as_ref().and_then(|a| a.error.as_ref());
        return Some(match error {
            Some(error) => (
                format!("epoch {epoch} cannot be archived, writes wait: {error}"),
                Tone::Bad,
            ),
            None => (
                format!("epoch {epoch} is being archived, writes wait"),
                Tone::Warn,
            ),
        });
    }
    let is_close = matches!(end.warning.as_str(), "near" | "close");
    let text = format!(
        "{} of {} ops are left of the epoch, {then}",
        end.ops_left, end.op_max
    );
    // Where the next epoch follows at once, that is nothing to worry about.
    (is_close && !then.is_empty()).then_some((text, Tone::Warn))
}

/// What there is to say of a replica's memory: only when some of it is damaged.
fn damage_note(status: &Status) -> Option<(String, Tone)> {
    let Damage {
        text,
        seconds,
        unrepairable,
    } = status.damage.as_ref()?;
    let tone = if *unrepairable { Tone::Bad } else { Tone::Warn };
    let since = units::time(seconds * 1e9);
    Some((format!("R{}: {text} (for {since})", status.replica), tone))
}

fn headline(answers: &[Answer<Status>], known: &[&Status]) -> String {
    let reachable = format!("{} of {} replicas reachable", known.len(), answers.len());
    let Some(first) = known
        .iter()
        .max_by_key(|status| (status.cluster.is_some(), status.view))
    else {
        return reachable;
    };
    match &first.cluster {
        Some(cluster) => format!(
            "cluster {} ({}) | view {}, led by R{} | {reachable}",
            first.cluster_name, cluster, first.view, first.primary
        ),
        None => format!(
            "cluster {}: not formed yet | {reachable}",
            first.cluster_name
        ),
    }
}

/// The ops at which two replicas say different digests.
fn diverged(known: &[&Status]) -> Vec<u64> {
    let mut digests: BTreeMap<u64, &str> = BTreeMap::new();
    let mut diverged = Vec::new();
    for status in known.iter().filter(|status| status.digest.op > 0) {
        let digest = digests
            .entry(status.digest.op)
            .or_insert(&status.digest.digest);
        if *digest != status.digest.digest && !diverged.contains(&status.digest.op) {
            diverged.push(status.digest.op);
        }
    }
    diverged
}

/// Whether the primary leaves `replica` out of the chain; none when there is no primary to know.
fn suspected(known: &[&Status], replica: u8) -> Option<bool> {
    let primary = known.iter().find(|status| status.role == "primary")?;
    if primary.replica == replica {
        return Some(false);
    }
    let peer = primary.peers.iter().find(|peer| peer.replica == replica)?;
    Some(peer.suspect)
}

fn row(
    status: &Status,
    endpoint: &str,
    lag: u64,
    suspect: Option<bool>,
    bad_digest: bool,
) -> Vec<Cell> {
    let sequence = status.sequence();
    let role = if status.role == "primary" {
        Tone::Strong
    } else {
        Tone::Plain
    };
    let health = match status.status.as_str() {
        "normal" => Tone::Good,
        "blank" | "recovering" | "view-change" => Tone::Warn,
        _ => Tone::Bad,
    };
    let digest = match status.digest.op {
        0 => Cell::toned("-", Tone::Dim),
        op => {
            let digest = &status.digest.digest;
            let short = digest.get(..8).unwrap_or(digest);
            Cell::toned(
                format!("{op}:{short}"),
                if bad_digest { Tone::Bad } else { Tone::Plain },
            )
        }
    };
    let suspect = match suspect {
        Some(true) => Cell::toned("yes", Tone::Bad),
        Some(false) => "no".into(),
        None => Cell::toned("-", Tone::Dim),
    };
    let ready = match status.ready {
        true => Cell::toned("yes", Tone::Good),
        false => Cell::toned("no", Tone::Bad),
    };
    vec![
        format!("R{}", status.replica).into(),
        Cell::toned(&status.role, role),
        Cell::toned(&status.status, health),
        Cell::number(status.view),
        Cell::number(status.view_changes),
        status.shown(sequence.op),
        status.shown(sequence.commit),
        status.shown(sequence.applied),
        Cell::number(lag).tone(if lag == 0 { Tone::Dim } else { Tone::Plain }),
        digest,
        Cell::number(status.in_flight),
        suspect,
        ready,
        Cell::toned(endpoint, Tone::Dim),
    ]
}

fn unreachable_row(index: usize, endpoint: &str) -> Vec<Cell> {
    let unknown = || Cell::toned("-", Tone::Dim);
    let mut cells = vec![format!("R{index}?").into(), unknown()];
    cells.push(Cell::toned("unreachable", Tone::Bad));
    cells.extend((0..9).map(|_| unknown()));
    cells.push(Cell::toned("no", Tone::Bad));
    cells.push(Cell::toned(endpoint, Tone::Dim));
    cells
}

/// All that the replica said, and what was worked out.
fn to_json(status: &Status, endpoint: &str, lag: u64, suspect: Option<bool>) -> Value {
    let mut json = json!({"endpoint": endpoint, "reachable": true});
    if let (Value::Object(to), Value::Object(from)) = (&mut json, &status.raw) {
        to.extend(
            from.iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        to.insert("lag".to_owned(), json!(lag));
        to.insert("suspect".to_owned(), json!(suspect));
    }
    json
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A replica's answer, as a node of three would give it.
    pub(crate) fn answer(replica: u8, change: impl FnOnce(&mut Value)) -> Answer<Status> {
        let mut raw = json!({
            "cluster_name": "demo", "cluster": "00ff", "replica": replica, "replicas": 3,
            "quorum": 2, "status": "normal", "halted": null, "ready": true, "reason": "",
            "role": if replica == 0 { "primary" } else { "backup" },
            "view": 0, "primary": 0, "op": 1234, "commit": 1234, "applied": 1234,
            "digest": {"op": 1024, "digest": "3fa2c1d09988"}, "in_flight": 0, "sessions": 5,
            "peers": [{"replica": 1, "suspect": false}, {"replica": 2, "suspect": true}],
        });
        change(&mut raw);
        understand(Answer {
            endpoint: format!("127.0.0.1:700{replica}"),
            result: Ok(raw),
        })
    }

    pub(crate) fn silent(endpoint: &str) -> Answer<Status> {
        let result = Err("connection refused".to_owned());
        Answer {
            endpoint: endpoint.to_owned(),
            result,
        }
    }

    fn text(answers: &[Answer<Status>]) -> String {
        anstream::adapter::strip_str(&report(answers).render(Format::Table)).to_string()
    }

    #[test]
    fn one_row_per_replica_with_what_only_comparison_shows() {
        let answers = [
            answer(0, |raw| raw["in_flight"] = json!(3)),
            answer(1, |raw| {
                raw["applied"] = json!(1200);
                raw["view_changes"] = json!(2);
            }),
            silent("127.0.0.1:7002"),
        ];
        let expected = "\
cluster demo (00ff) | view 0, led by R0 | 2 of 3 replicas reachable
 replica  role     status       view  changes     op  commit  applied  lag  digest         in flight  suspect  ready  endpoint
 ───────  ───────  ───────────  ────  ───────  ─────  ──────  ───────  ───  ─────────────  ─────────  ───────  ─────  ──────────────
 R0       primary  normal          0        0  1,234   1,234    1,234    0  1024:3fa2c1d0          3  no       yes    127.0.0.1:7000
 R1       backup   normal          0        2  1,234   1,234    1,200   34  1024:3fa2c1d0          0  no       yes    127.0.0.1:7001
 R2?      -        unreachable     -        -      -       -        -    -  -                      -  -        no     127.0.0.1:7002
127.0.0.1:7002: connection refused
";
        assert_eq!(text(&answers), expected);
    }

    #[test]
    fn whom_the_primary_suspects_is_shown_in_his_row() {
        let answers = [answer(0, |_| {}), answer(1, |_| {}), answer(2, |_| {})];
        let json = report(&answers).json;
        let suspects: Vec<&Value> = (0..3).map(|i| &json["replicas"][i]["suspect"]).collect();
        assert_eq!(suspects, [&json!(false), &json!(false), &json!(true)]);
    }

    #[test]
    fn different_digests_at_one_op_are_said_and_at_different_ops_are_not() {
        let other = |op: u64| json!({"op": op, "digest": "ffffffffffff"});
        let same_op = [
            answer(0, |_| {}),
            answer(1, |raw| raw["digest"] = other(1024)),
        ];
        assert!(text(&same_op).contains("the digests at op 1024 differ"));
        assert_eq!(report(&same_op).json["diverged"], true);
        let behind = [
            answer(0, |_| {}),
            answer(1, |raw| raw["digest"] = other(512)),
        ];
        assert_eq!(report(&behind).json["diverged"], false);
    }

    #[test]
    fn programs_get_everything_the_replica_said() {
        let json = report(&[answer(1, |raw| raw["applied"] = json!(1000)), silent("x:1")]).json;
        assert_eq!(json["replicas"][0]["sessions"], 5);
        assert_eq!(json["replicas"][0]["reachable"], true);
        assert_eq!(json["replicas"][0]["lag"], 234);
        assert_eq!(
            json["replicas"][1],
            json!({
                "endpoint": "x:1", "reachable": false, "error": "connection refused"
            })
        );
    }

    #[test]
    fn a_blank_cluster_is_called_not_formed_and_says_why_it_is_not_ready() {
        let blank = answer(0, |raw| {
            raw["cluster"] = Value::Null;
            raw["status"] = json!("blank");
            raw["role"] = json!("none");
            raw["ready"] = json!(false);
            raw["reason"] = json!("blank: waits for init");
        });
        let text = text(&[blank]);
        assert!(text.contains("not formed yet"), "{text}");
        assert!(text.ends_with("R0: blank: waits for init\n"), "{text}");
    }

    #[test]
    fn who_recovers_catches_up_or_has_recovered_is_told_below_the_table() {
        let recovering = answer(0, |raw| {
            raw["status"] = json!("recovering");
            raw["ready"] = json!(false);
            raw["reason"] = json!("recovering: 1 of 2 replicas have answered");
        });
        let behind = answer(1, |raw| {
            raw["recovery"] = json!({"phase": "none", "held_op": 5, "transfer": {
                "donor": 2, "chunks": 900, "looked_at": 30, "bytes": 3 << 20,
            }});
        });
        let recovered = answer(2, |raw| {
            raw["recovered"] = json!({"seconds": 0.25, "op": 1200, "bytes": 5 << 20});
        });
        let text = text(&[recovering, behind, recovered]);
        for line in [
            "R0: recovering: 1 of 2 replicas have answered",
            "R1: catches up: fetches the state from R2 (3.00 MiB), 30 of 900 chunks looked at",
            "R2: its process recovered in 250 ms, up to op 1200 (5.00 MiB)",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn short_epochs_are_shown_with_the_number_and_the_lag_is_that_of_the_whole_sequence() {
        let in_epochs = |raw: &mut Value, op: u64, applied: u64| {
            raw["epoch_end"] = json!({
                "op_max": 100, "on_op_max": "halt", "ops_left": 3, "warning": "close",
            });
            raw["sequence"] = json!({"op": op, "commit": op, "applied": applied, "tail": 1});
        };
        let answers = [
            answer(0, |raw| in_epochs(raw, 197, 197)),
            answer(1, |raw| in_epochs(raw, 197, 95)),
        ];
        let text = text(&answers);
        assert!(text.contains("1/97    1/97     1/97    0"), "{text}");
        assert!(text.contains("1/97    1/97     0/95  102"), "{text}");
        let line = "3 of 100 ops are left of the epoch, then nothing can be written";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn an_archive_that_fails_is_said() {
        let text = text(&[answer(0, |raw| {
            raw["epoch_end"] = json!({
                "op_max": 100, "on_op_max": "archive", "ops_left": 0, "warning": "full",
                "archive_due": 4, "archives": {"error": "no space left"},
            });
        })]);
        assert!(
            text.contains("epoch 4 cannot be archived, writes wait: no space left"),
            "{text}"
        );
    }

    #[test]
    fn damage_is_told_below_the_table_and_sound_memory_is_not() {
        let damaged = answer(1, |raw| {
            raw["damage"] = json!({
                "text": "damaged: state in chunk 35, after op 12: being fetched from R2",
                "seconds": 1.5, "unrepairable": false, "places": [],
            });
        });
        let text = text(&[answer(0, |_| {}), damaged]);
        let line =
            "R1: damaged: state in chunk 35, after op 12: being fetched from R2 (for 1.50 s)";
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
        assert!(!text.contains("R0: "), "{text}");
    }

    #[test]
    fn unknown_and_missing_fields_do_no_harm() {
        let sparse = Answer {
            endpoint: "x:1".to_owned(),
            result: Ok(json!({"replica": 2, "from_the_future": [1]})),
        };
        assert!(text(&[understand(sparse)]).contains(" R2 "));
    }
}

//! A replica in words: the one model behind `/status`, `/readyz` and the tools' `Inspect` questions.
//!
//! Everything is plain data with serde on both sides, so that a tool reads exactly what a node wrote.
//! Identifiers of 128 bits are hexadecimal text, because JSON numbers cannot hold them.

mod chunks;
mod damage;
mod divergence;
mod epochs;
mod limits;
#[cfg(test)]
mod tests;

pub use chunks::{CHUNKS_MAX, Chunk, Chunks, chunks};
pub use damage::{
    Damage, Found, FoundTotal, Integrity, Scrub, Scrubbing, Told as ToldFindings, scrubbing,
};
pub use divergence::{Divergence, Suspect, divergence};
pub use epochs::{Archive, Archives, EpochEnd, Sequence};
pub use limits::{Limits, Part, limits};

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vsr_consensus::{
    HaltReason, PeerReport, RecoveryPhase, RecoveryReport, Replica, Report, StateMachine,
    TransferReport,
};
use vsr_types::message::PeerStatus;
use vsr_types::{Batch, Instant, Op, Operation, ReplicaIndex};

use crate::config::Config;
use crate::server::LinkReport;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The most headers that one answer about the log holds.
const LOG_MAX: u64 = 1000;

/// The most sessions and requests that one answer holds: a tool's answer must fit into a frame.
const LIST_MAX: usize = 2000;

/// A replica in a few numbers. Topic `status`, and `/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster's id; none while blank.
    pub cluster: Option<String>,
    /// This replica, from 0.
    pub replica: u8,
    /// How many replicas there are.
    pub replicas: u8,
    /// How many of them make a quorum.
    pub quorum: u8,
    /// How many crashes the cluster survives.
    pub failures_survived: u8,
    /// Its native address, as the peers list has it.
    pub address: String,
    /// Its life.
    pub incarnation: String,
    /// `blank`, `recovering`, `normal`, `view-change` or `halted`.
    pub status: String,
    /// Why it stopped, if it has.
    pub halted: Option<String>,
    /// The last time that replicas were seen to have different states.
    #[serde(default)]
    pub divergence: Option<Divergence>,
    /// How often this process has begun again with nothing lately, because it could not trust its memory.
    #[serde(default)]
    pub restarts_in_place: u64,
    /// `primary`, `backup`, or `none` outside normal operation.
    pub role: String,
    /// Whether it takes part and commits.
    pub ready: bool,
    /// Why it is not ready; empty when it is.
    pub reason: String,
    /// Fewer replicas than a quorum were operational for long: nothing is served.
    pub quorum_lost: bool,
    /// How often it has left a view.
    pub view_changes: u64,
    /// What it fetches from the others, while it does.
    pub recovery: Option<Recovery>,
    /// How its process got the state of the one before it, if it did.
    pub recovered: Option<Recovered>,
    /// The epoch of the last op in the log.
    pub epoch: u64,
    /// How far that epoch has come, and what happens when it ends.
    #[serde(default)]
    pub epoch_end: EpochEnd,
    /// Its view.
    pub view: u64,
    /// Who leads that view.
    pub primary: u8,
    /// The last op in the log, by its number in its epoch, as all four.
    pub op: u64,
    /// The last op known to be committed.
    pub commit: u64,
    /// The last op executed.
    pub applied: u64,
    /// The oldest op whose batch is held.
    pub tail: u64,
    /// The same four as places in the whole sequence: what is compared and subtracted.
    #[serde(default)]
    pub sequence: Sequence,
    /// The newest digest taken.
    pub digest: Digest,
    /// How far the scrubber has come.
    #[serde(default)]
    pub scrub: Scrub,
    /// What of its memory is damaged now.
    #[serde(default)]
    pub damage: Option<Damage>,
    /// How many sessions are open.
    pub sessions: u64,
    /// How many batches are on their way (primary only).
    pub in_flight: u64,
    /// The order in which the backups get batches (primary only).
    pub chain: Vec<u8>,
    /// What this replica knows of the others.
    pub peers: Vec<Peer>,
    /// The memory plan's sum.
    pub memory_bytes: u64,
    /// Since the process started.
    pub uptime_seconds: f64,
}

/// A replica that has lost its memory gets it back, or one that was away for long catches up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// `asking`, `registering` or `restoring`; `none` when a replica that takes part catches up.
    pub phase: String,
    /// How many replicas have answered the question that is asked now.
    pub replies: u8,
    /// How many must.
    pub needed: u8,
    /// The last op that it must hold before it takes part; none while unknown.
    pub target_op: Option<u64>,
    /// Up to which op it holds everything.
    pub held_op: u64,
    /// For how long it has been going on.
    pub seconds: f64,
    /// The state that it fetches, if the log alone does not do.
    pub transfer: Option<Transfer>,
}

/// A state on its way to this replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Who gives it.
    pub donor: u8,
    /// Counts passes over the state from 1: each brings what changed during the one before.
    pub pass: u32,
    /// Whether this is the last pass, during which the donor executes nothing.
    pub last: bool,
    /// How many chunks the state has; none until the donor said so.
    pub chunks: Option<u64>,
    /// How many of them are behind this pass.
    pub looked_at: u64,
    /// How many chunks came, in all passes.
    pub taken: u64,
    /// Their bytes.
    pub bytes: u64,
    /// For how long it has been going on.
    pub seconds: f64,
}

/// A recovery that is over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// From the first question to taking part.
    pub seconds: f64,
    /// From the start of the process to taking part.
    pub seconds_since_start: f64,
    /// The last op that it held then.
    pub op: u64,
    /// All that the other replicas sent meanwhile.
    pub bytes: u64,
}

/// A state's digest at an op. Topic `digest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The op after which it was taken, as a place in the whole sequence; 0: none was taken yet.
    pub op: u64,
    /// 32 hexadecimal digits.
    pub digest: String,
}

/// What a replica knows of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Which one.
    pub replica: u8,
    /// Its address, as the peers list has it.
    pub address: String,
    /// Its status, as it said; none: never heard of.
    pub status: Option<String>,
    /// The view it said it is in.
    pub view: u64,
    /// The last op it holds.
    pub op: u64,
    /// The last op it executed.
    pub applied: u64,
    /// The oldest op whose batch it holds.
    pub tail: u64,
    /// The same as places in the whole sequence.
    #[serde(default)]
    pub sequence: Sequence,
    /// How long ago it was heard of, in milliseconds.
    pub heard_ms: Option<u64>,
    /// The time a ping and its answer took, in microseconds.
    pub round_trip_us: Option<f64>,
    /// At the primary: it is too slow and left out of the chain.
    pub suspect: bool,
    /// Whether there is a connection.
    pub connected: bool,
    /// Why there is none, or why the last one ended.
    pub link_error: Option<String>,
}

/// One log entry's header. Topic `log` is a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the whole sequence.
    pub op: u64,
    /// Its name: epoch and number.
    #[serde(default)]
    pub name: String,
    /// The view in which it was first prepared.
    pub view: u64,
    /// The replicated time, nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// The checksum over its header, eight hexadecimal digits.
    pub checksum: String,
    /// The checksum over its body.
    pub checksum_body: String,
    /// The size of its body in bytes.
    pub size_bytes: u64,
}

/// One log entry with its requests. Topic `op`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryDetail {
    /// Its header.
    #[serde(flatten)]
    pub entry: Entry,
    /// How many requests it holds; none: the body is not held any more.
    pub count: Option<u64>,
    /// The first of them.
    pub requests: Vec<RequestDetail>,
}

/// One request in a log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDetail {
    /// Its place in the batch.
    pub index: u32,
    /// `register` or `apply`.
    pub kind: String,
    /// Who asked.
    pub client: String,
    /// In which session.
    pub session: u64,
    /// Under which number.
    pub request: u64,
    /// The size of the operation in bytes.
    pub size_bytes: u64,
    /// Whether the checksum that the client made is right.
    pub intact: bool,
}

/// One client session. Topic `sessions` is a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The client.
    pub client: String,
    /// The op that registered it.
    pub session: u64,
    /// The last request executed.
    pub request: u64,
    /// The op of that request.
    pub op: u64,
    /// The size of its cached reply in bytes.
    pub reply_bytes: u64,
}

/// One setting. Topic `config` is a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name, as on the command line.
    pub name: String,
    /// Its value, as it was written.
    pub value: String,
    /// Who wrote it.
    pub origin: String,
}

/// The chain as its primary sees it. Topic `chain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// Who leads.
    pub primary: u8,
    /// The order in which the backups get batches; known at the primary.
    pub route: Vec<u8>,
    /// What this replica knows of the others.
    pub peers: Vec<Peer>,
}

/// What the replica does not know of itself.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// The clock that the replica is stepped with.
    pub now: Instant,
    /// Since the process started.
    pub uptime: Duration,
    /// The memory plan's sum, in bytes.
    pub memory: usize,
    /// What was seen of its commits so far.
    pub progress: Progress,
    /// The connections to the other replicas.
    pub links: Vec<LinkReport>,
    /// How far its recovery has come, and whether a quorum is there.
    pub recovery: RecoveryReport,
    /// The state that it fetches.
    pub transfer: Option<TransferReport>,
    /// How this process got the state of the one before it.
    pub recovered: Option<Recovered>,
    /// How often it has left a view.
    pub view_changes: u64,
    /// The last time that replicas were seen to have different states.
    pub divergence: Option<Divergence>,
    /// How often this process has begun again in place lately.
    pub restarts_in_place: u64,
    /// How sound its memory is.
    pub integrity: Integrity,
    /// What became of archives.
    pub archives: crate::archive::Report,
}

/// When the replica last had nothing to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    commit: Op,
    at: Instant,
}

impl Progress {
    /// Looks at the replica once more.
    pub fn observe(&mut self, report: &Report, now: Instant) {
        if report.commit != self.commit || report.op == report.commit {
            *self = Self {
                commit: report.commit,
                at: now,
            };
        }
    }
}

/// Whether the replica takes part and commits; if not, why not.
///
/// # Errors
/// The reason, for people.
pub fn readiness(report: &Report, around: &Surroundings<'_>) -> Result<(), String> {
    let patience = (around.config.consensus.view_timeout * 10).max(Duration::from_secs(1));
    if let Some(reason) = report.halted {
        return Err(halt_text(reason));
    }
    if around.recovery.quorum_lost {
        return Err(quorum_lost_text(report, around));
    }
    match report.status {
        PeerStatus::Normal => {}
        PeerStatus::Blank => return Err("blank: holds nothing and waits for `vsr-cli init`".into()),
        PeerStatus::Recovering => return Err(recovery_text(around)),
        other => return Err(format!("{}: does not take part yet", status_name(other))),
    }
    if around.integrity.scrub.is_blocked {
        // R14.3: it executes nothing.
        let damage = damage::damage(&around.integrity, report.replicas, around.now);
        return Err(damage.map_or_else(String::new, |damage| damage.text));
    }
    let heard = |peer: &PeerReport| peer.heard.is_some_and(|at| around.now.since(at) < patience);
    if report.primary == report.replica {
        let others = others(report).filter(|(_, peer)| heard(peer)).count();
        let quorum = usize::from(around.config.consensus.quorum());
        if others + 1 < quorum {
            return Err(format!(
                "no quorum: hears {others} of {} other replicas, needs {}",
                report.replicas - 1,
                quorum - 1
            ));
        }
    } else if !report
        .peers
        .get(report.primary.as_usize())
        .is_some_and(heard)
    {
        return Err(format!(
            "has not heard from the primary {} lately",
            report.primary
        ));
    }
    if let Some(text) = epochs::waiting_text(report, &around.archives) {
        return Err(text);
    }
    let waited = around.now.since(around.progress.at);
    if report.op > report.commit && report.commit == around.progress.commit && waited >= patience {
        return Err(format!(
            "op {} has waited for its commit for {waited:.1?}",
            report.commit.next()
        ));
    }
    Ok(())
}

fn quorum_lost_text(report: &Report, around: &Surroundings<'_>) -> String {
    let (quorum, replicas) = (around.config.consensus.quorum(), report.replicas);
    format!(
        "QUORUM_LOST: fewer than {quorum} of {replicas} replicas take part, so nothing is served; bring the \
         others back, and do not restart those that still hold the state (now {})",
        status_name(report.status)
    )
}

/// How far a recovery has come, for people.
fn recovery_text(around: &Surroundings<'_>) -> String {
    let RecoveryReport {
        phase,
        replies,
        needed,
        target,
        held,
        ..
    } = around.recovery;
    if let Some(transfer) = around.transfer {
        let (donor, taken, bytes) = (transfer.donor, transfer.taken, transfer.bytes);
        let bytes = crate::config::show_size(usize::try_from(bytes).unwrap_or(usize::MAX));
        return match transfer.chunks {
            Some(chunks) => format!(
                "recovering: fetches the state from {donor}, pass {}: {} of {chunks} chunks looked at, \
                 {taken} taken ({bytes})",
                transfer.pass, transfer.looked_at
            ),
            None => format!("recovering: asks {donor} for the state"),
        };
    }
    match phase {
        RecoveryPhase::Restoring => format!("recovering: holds op {held} of {target}"),
        RecoveryPhase::None | RecoveryPhase::Asking | RecoveryPhase::Registering => {
            format!("recovering: {replies} of {needed} replicas have answered")
        }
    }
}

/// The word for a recovery's phase.
#[must_use]
pub const fn phase_name(phase: RecoveryPhase) -> &'static str {
    match phase {
        RecoveryPhase::None => "none",
        RecoveryPhase::Asking => "asking",
        RecoveryPhase::Registering => "registering",
        RecoveryPhase::Restoring => "restoring",
    }
}

fn recovery(report: &Report, around: &Surroundings<'_>) -> Option<Recovery> {
    let RecoveryReport {
        phase,
        replies,
        needed,
        since,
        target,
        held,
        ..
    } = around.recovery;
    let is_recovering = report.status == PeerStatus::Recovering;
    if !is_recovering && around.transfer.is_none() {
        return None;
    }
    let transfer = around.transfer.map(|transfer| Transfer {
        donor: transfer.donor.raw(),
        pass: transfer.pass,
        last: transfer.held,
        chunks: transfer.chunks,
        looked_at: transfer.looked_at,
        taken: transfer.taken,
        bytes: transfer.bytes,
        seconds: transfer.elapsed.as_secs_f64(),
    });
    let since_start = around.now.since(since).as_secs_f64();
    let in_transfer = transfer.as_ref().map_or(0.0, |transfer| transfer.seconds);
    Some(Recovery {
        phase: phase_name(phase).into(),
        replies,
        needed,
        target_op: (target != Op::ZERO).then(|| target.raw()),
        held_op: held.raw(),
        seconds: if is_recovering {
            since_start
        } else {
            in_transfer
        },
        transfer,
    })
}

/// The replica in a few numbers.
#[must_use]
pub fn status(report: &Report, around: &Surroundings<'_>) -> Status {
    let ready = readiness(report, around);
    let role = match (report.status, report.primary == report.replica) {
        (PeerStatus::Normal, true) => "primary",
        (PeerStatus::Normal, false) => "backup",
        _ => "none",
    };
    let consensus = &around.config.consensus;
    let number = |op| epochs::number(report.op_max, op);
    Status {
        version: VERSION.into(),
        cluster_name: around.config.cluster.clone(),
        cluster: (!report.cluster.is_zero()).then(|| report.cluster.to_string()),
        replica: report.replica.raw(),
        replicas: report.replicas,
        quorum: consensus.quorum(),
        failures_survived: consensus.failures_survived(),
        address: address(around.config, report.replica),
        incarnation: format!(
            "{}-{:016x}",
            report.incarnation.counter, report.incarnation.random
        ),
        status: status_name(report.status).into(),
        halted: report.halted.map(halt_text),
        divergence: around.divergence.clone(),
        restarts_in_place: around.restarts_in_place,
        role: role.into(),
        ready: ready.is_ok(),
        reason: ready.err().unwrap_or_default(),
        quorum_lost: around.recovery.quorum_lost,
        view_changes: around.view_changes,
        recovery: recovery(report, around),
        recovered: around.recovered,
        epoch: report.epoch.raw(),
        epoch_end: epochs::epoch_end(report, &around.archives),
        view: report.view.raw(),
        primary: report.primary.raw(),
        op: number(report.op),
        commit: number(report.commit),
        applied: number(report.applied),
        tail: number(report.tail),
        sequence: Sequence::of(report),
        digest: Digest {
            op: report.digest.op.raw(),
            digest: report.digest.digest.to_string(),
        },
        scrub: damage::scrub(&around.integrity, around.now),
        damage: damage::damage(&around.integrity, report.replicas, around.now),
        sessions: report.sessions as u64,
        in_flight: report.in_flight as u64,
        chain: report.route.hops().map(ReplicaIndex::raw).collect(),
        peers: peers(report, around),
        memory_bytes: around.memory as u64,
        uptime_seconds: around.uptime.as_secs_f64(),
    }
}

/// The chain as this replica sees it.
#[must_use]
pub fn chain(report: &Report, around: &Surroundings<'_>) -> Chain {
    Chain {
        primary: report.primary.raw(),
        route: report.route.hops().map(ReplicaIndex::raw).collect(),
        peers: peers(report, around),
    }
}

/// Everybody but this replica.
fn others(report: &Report) -> impl Iterator<Item = (ReplicaIndex, &PeerReport)> {
    ReplicaIndex::all(report.replicas)
        .zip(&report.peers)
        .filter(|(index, _)| *index != report.replica)
}

fn address(config: &Config, replica: ReplicaIndex) -> String {
    config
        .peers
        .get(replica.as_usize())
        .cloned()
        .unwrap_or_default()
}

fn peers(report: &Report, around: &Surroundings<'_>) -> Vec<Peer> {
    let describe = |(index, peer): (ReplicaIndex, &PeerReport)| {
        let link = around.links.iter().find(|link| link.replica == index);
        Peer {
            replica: index.raw(),
            address: address(around.config, index),
            status: peer.status.map(|status| status_name(status).into()),
            view: peer.view.raw(),
            op: epochs::number(report.op_max, peer.op),
            applied: epochs::number(report.op_max, peer.applied),
            tail: epochs::number(report.op_max, peer.tail),
            sequence: Sequence::of_peer(peer),
            heard_ms: peer.heard.map(|at| around.now.since(at).as_millis() as u64),
            round_trip_us: (peer.round_trip_ns > 0).then(|| peer.round_trip_ns as f64 / 1000.0),
            suspect: peer.suspect,
            connected: link.is_some_and(|link| link.is_up),
            link_error: link.and_then(|link| link.last_error.clone()),
        }
    };
    others(report).map(describe).collect()
}

/// The word for a status.
#[must_use]
pub const fn status_name(status: PeerStatus) -> &'static str {
    match status {
        PeerStatus::Blank => "blank",
        PeerStatus::Recovering => "recovering",
        PeerStatus::Normal => "normal",
        PeerStatus::ViewChange => "view-change",
        PeerStatus::Halted => "halted",
    }
}

/// Why a replica has stopped, for people.
#[must_use]
pub fn halt_text(reason: HaltReason) -> String {
    match reason {
        HaltReason::Divergence { op } => format!(
            "divergence: the state after op {op} is not that of a majority; it is worth nothing, and is fetched anew from the others"
        ),
        HaltReason::NoMajority { op } => format!(
            "divergence: no majority agrees about the state after op {op}, so nobody can tell which replicas are right; all of them serve nobody and keep what they hold: do not restart them before you have looked (`vsr-cli status` shows who says what)"
        ),
        HaltReason::OpMax => "the op numbers are used up (--op-max): nothing can be written any more, reads go on; start a new cluster from an export, with a larger --op-max or with --on-op-max reset or archive".into(),
        HaltReason::Memory => {
            "memory: numbers that the protocol rests on changed by themselves; check this machine's memory, and start the node again: it recovers from the others".into()
        }
        HaltReason::Superseded => {
            "superseded: another process has taken this replica's place in the cluster; see that only one is started per replica".into()
        }
    }
}

/// The last `count` headers of the log, oldest first.
#[must_use]
pub fn log<S: StateMachine>(replica: &Replica<S>, count: u64) -> Vec<Entry> {
    let last = replica.report().op;
    let count = if count == 0 { 20 } else { count.min(LOG_MAX) };
    let first = last.minus(count - 1).raw().max(1);
    (first..=last.raw())
        .filter_map(|op| entry(replica, Op::new(op)))
        .collect()
}

fn entry<S: StateMachine>(replica: &Replica<S>, op: Op) -> Option<Entry> {
    let header = replica.log_header(op)?;
    let prepare = header.fields::<vsr_types::message::Prepare>()?;
    Some(Entry {
        op: prepare.op.raw(),
        name: replica.op_max().name(prepare.op).to_string(),
        view: header.view().raw(),
        timestamp_ns: prepare.timestamp.as_nanos(),
        checksum: format!("{:08x}", header.checksum().raw()),
        checksum_body: format!("{:08x}", header.checksum_body().raw()),
        size_bytes: header.body_size() as u64,
    })
}

/// One op: its header and its requests.
///
/// # Errors
/// When the log does not hold it.
pub fn op<S: StateMachine>(replica: &Replica<S>, op: Op) -> Result<EntryDetail, String> {
    let report = replica.report();
    let entry = entry(replica, op).ok_or_else(|| {
        format!(
            "op {op} is not in the log, which holds {} to {}",
            report.tail, report.op
        )
    })?;
    let batch = replica
        .log_body(op)
        .and_then(|body| Batch::parse(body).ok());
    let Some(batch) = batch else {
        return Ok(EntryDetail {
            entry,
            count: None,
            requests: Vec::new(),
        });
    };
    let requests = (0_u32..)
        .zip(batch.requests())
        .take(LIST_MAX)
        .map(|(index, request)| RequestDetail {
            index,
            kind: match Operation::from_raw(request.header().operation) {
                Some(Operation::Register) => "register".into(),
                _ => "apply".into(),
            },
            client: request.header().client.to_string(),
            session: request.header().session.raw(),
            request: request.header().request.raw(),
            size_bytes: request.operation().len() as u64,
            intact: request.is_intact(),
        })
        .collect();
    Ok(EntryDetail {
        entry,
        count: Some(batch.count().into()),
        requests,
    })
}

/// The session table, at most its first 2000.
#[must_use]
pub fn sessions<S: StateMachine>(replica: &Replica<S>) -> Vec<Session> {
    let describe = |session: vsr_consensus::SessionReport| Session {
        client: session.client.to_string(),
        session: session.session.raw(),
        request: session.request.raw(),
        op: session.op.raw(),
        reply_bytes: session.reply_size.into(),
    };
    replica.sessions().take(LIST_MAX).map(describe).collect()
}

/// The digest at `op`; at 0, the newest.
///
/// # Errors
/// When none was taken there.
pub fn digest<S: StateMachine>(replica: &Replica<S>, op: Op) -> Result<Digest, String> {
    let newest = replica.report().digest;
    if op == Op::ZERO {
        return Ok(Digest {
            op: newest.op.raw(),
            digest: newest.digest.to_string(),
        });
    }
    let digest = replica.digest_at(op).ok_or_else(|| {
        format!(
            "no digest is remembered at op {op}; the newest was taken at op {}",
            newest.op
        )
    })?;
    Ok(Digest {
        op: op.raw(),
        digest: digest.to_string(),
    })
}

/// Every setting with its origin; no password is among them.
#[must_use]
pub fn settings(config: &Config) -> Vec<Setting> {
    let describe = |(name, value, origin): (&str, &str, &crate::config::Origin)| Setting {
        name: name.into(),
        value: value.into(),
        origin: origin.to_string(),
    };
    config.settings().map(describe).collect()
}

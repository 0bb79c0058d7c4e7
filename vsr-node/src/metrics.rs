//! The metrics of one node, written as OpenMetrics text on request.
//!
//! Nothing is counted here: the replica, the server, the gateway and the key-value machine count for
//! themselves. A scrape copies their numbers into [`Samples`], and prometheus-client writes them.

mod damage;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use vsr_consensus::{Counters, HaltReason, RecoveryPhase, Report};
use vsr_types::memory::Level;

use crate::gateway::GatewayCounters;
use crate::inspect::{Peer, Surroundings, phase_name, readiness, status_name};
use crate::kv::KvReport;
use crate::plan::{Plan, PoolReport};

/// What a scrape answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label and its value.
pub type Label = (&'static str, String);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Count(u64),
    Level(i64),
    Real(f64),
}

impl Number {
    fn encode(self, point: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Count(value) => ConstCounter::new(value).encode(point),
            Self::Level(value) => ConstGauge::new(value).encode(point),
            Self::Real(value) => ConstGauge::new(value).encode(point),
        }
    }
}

#[derive(Clone, Debug)]
struct Family {
    name: String,
    help: &'static str,
    unit: Option<Unit>,
    points: Vec<(Vec<Label>, Number)>,
}

/// The numbers of one scrape. Names carry the prefix `vsr_`, and their units at the end.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    families: Vec<Family>,
}

impl Samples {
    fn push(&mut self, name: &str, help: &'static str, labels: Vec<Label>, number: Number) {
        let (name, unit) = match name {
            name if name.ends_with("_bytes") => (&name[..name.len() - 6], Some(Unit::Bytes)),
            name if name.ends_with("_seconds") => (&name[..name.len() - 8], Some(Unit::Seconds)),
            name => (name, None),
        };
        match self.families.iter_mut().find(|family| family.name == name) {
            Some(family) => family.points.push((labels, number)),
            None => {
                let points = vec![(labels, number)];
                self.families.push(Family {
                    name: name.into(),
                    help,
                    unit,
                    points,
                });
            }
        }
    }

    /// Something that only grows; its name in the text ends with `_total`.
    pub fn counter(&mut self, name: &str, help: &'static str, labels: Vec<Label>, value: u64) {
        self.push(name, help, labels, Number::Count(value));
    }

    /// Something that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &'static str, labels: Vec<Label>, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.push(name, help, labels, Number::Level(value));
    }

    /// Something measured in fractions.
    pub fn real(&mut self, name: &str, help: &'static str, labels: Vec<Label>, value: f64) {
        self.push(name, help, labels, Number::Real(value));
    }

    /// The text of a scrape.
    #[must_use]
    pub fn text(self) -> String {
        let mut registry = Registry::with_prefix("vsr");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing into a string does not fail");
        text
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.families {
            let kind = match family.points.first() {
                Some((_, Number::Count(_))) => MetricType::Counter,
                _ => MetricType::Gauge,
            };
            let mut metric =
                encoder.encode_descriptor(&family.name, family.help, family.unit.as_ref(), kind)?;
            for (labels, number) in &family.points {
                if labels.is_empty() {
                    // The only point of its family: an empty pair of braces would be ugly.
                    number.encode(metric)?;
                    break;
                }
                number.encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

/// The replica's own numbers.
pub fn replica(samples: &mut Samples, report: &Report, around: &Surroundings<'_>) {
    let build = vec![("version", crate::inspect::VERSION.to_owned())];
    samples.gauge("build_info", "The version of this program", build, 1);
    let uptime = around.uptime.as_secs_f64();
    samples.real(
        "uptime_seconds",
        "Since the process started",
        Vec::new(),
        uptime,
    );
    for name in ["blank", "recovering", "normal", "view-change", "halted"] {
        let labels = vec![("status", name.to_owned())];
        let on = u64::from(status_name(report.status) == name);
        samples.gauge("status", "1 at the status the replica is in", labels, on);
    }
    let mut gauge = |name, help, value| samples.gauge(name, help, Vec::new(), value);
    let ready = readiness(report, around).is_ok();
    gauge(
        "memory_plan_bytes",
        "The memory reserved at start",
        around.memory as u64,
    );
    gauge(
        "ready",
        "1 when the replica takes part and commits",
        ready.into(),
    );
    gauge(
        "is_primary",
        "1 at the primary",
        (report.primary == report.replica).into(),
    );
    gauge("view", "The view", report.view.raw());
    gauge(
        "op",
        "The last op in the log, counted over all epochs",
        report.op.raw(),
    );
    gauge(
        "commit_op",
        "The last op known to be committed",
        report.commit.raw(),
    );
    gauge("applied_op", "The last op executed", report.applied.raw());
    gauge("journal_tail_op", "The oldest op held", report.tail.raw());
    gauge("sessions", "Open client sessions", report.sessions as u64);
    gauge(
        "prepares_in_flight",
        "Batches on their way",
        report.in_flight as u64,
    );
    epoch(samples, report, around);
    recovery(samples, report, around);
    damage::damage(samples, report.replicas, around);
    for peer in crate::inspect::status(report, around).peers {
        self::peer(samples, &peer);
    }
}

/// How far the epoch has come, and what becomes of its end.
fn epoch(samples: &mut Samples, report: &Report, around: &Surroundings<'_>) {
    let mut gauge = |name, help, value| samples.gauge(name, help, Vec::new(), value);
    gauge("epoch", "The epoch of the last op", report.epoch.raw());
    let number = report.op_max.name(report.op).number;
    gauge("epoch_op", "The number of the last op in its epoch", number);
    gauge("op_max", "How many ops an epoch has", report.op_max.raw());
    gauge(
        "epoch_ops_left",
        "How many ops are left of the epoch",
        report.ops_left,
    );
    gauge(
        "epoch_warning",
        "0: less than 90 % of the epoch's ops are used, 1: 90 %, 2: 99 %, 3: all",
        report.warning as u64,
    );
    gauge(
        "archive_due",
        "1 while writes wait for this replica to archive an epoch",
        report.archive_due.is_some().into(),
    );
    gauge(
        "archive_failing",
        "1 while archiving fails",
        around.archives.error.is_some().into(),
    );
    for (result, count) in [
        ("written", around.archives.written),
        ("failed", around.archives.failed),
    ] {
        let labels = vec![("result", result.to_owned())];
        samples.counter("archives", "Attempts to archive an epoch", labels, count);
    }
}

/// View changes, recovery, transfer, and what has gone wrong for good.
fn recovery(samples: &mut Samples, report: &Report, around: &Surroundings<'_>) {
    let help = "How often this replica has left a view";
    samples.counter("view_changes", help, Vec::new(), around.view_changes);
    for (name, is_it) in [
        (
            "divergence",
            matches!(report.halted, Some(HaltReason::Divergence { .. })),
        ),
        (
            "no_majority",
            matches!(report.halted, Some(HaltReason::NoMajority { .. })),
        ),
        ("op_max", report.halted == Some(HaltReason::OpMax)),
        ("superseded", report.halted == Some(HaltReason::Superseded)),
        ("memory", report.halted == Some(HaltReason::Memory)),
    ] {
        let labels = vec![("reason", name.to_owned())];
        samples.gauge(
            "halted",
            "1 at the reason why it stopped",
            labels,
            is_it.into(),
        );
    }
    for phase in [
        RecoveryPhase::Asking,
        RecoveryPhase::Registering,
        RecoveryPhase::Restoring,
    ] {
        let labels = vec![("phase", phase_name(phase).to_owned())];
        let is_it = around.recovery.phase == phase;
        let help = "1 at the phase of the recovery that goes on";
        samples.gauge("recovery_phase", help, labels, is_it.into());
    }
    let mut gauge = |name, help, value| samples.gauge(name, help, Vec::new(), value);
    gauge(
        "restarts_in_place",
        "How often this process has begun again with nothing in the last ten minutes before it started",
        around.restarts_in_place,
    );
    gauge(
        "divergence_op",
        "The op at which replicas were last seen to have different states; 0: never",
        around.divergence.as_ref().map_or(0, |seen| seen.op),
    );
    gauge(
        "quorum_lost",
        "1 while fewer replicas than a quorum take part",
        around.recovery.quorum_lost.into(),
    );
    gauge(
        "recovery_replies",
        "Replicas that have answered a recovering one",
        around.recovery.replies.into(),
    );
    gauge(
        "recovery_target_op",
        "The op that a recovering replica must hold",
        around.recovery.target.raw(),
    );
    gauge(
        "recovery_held_op",
        "The op up to which everything is held",
        around.recovery.held.raw(),
    );
    transfer(samples, around);
}

/// The state that is fetched now, and the recovery that is over.
fn transfer(samples: &mut Samples, around: &Surroundings<'_>) {
    let mut gauge = |name, help, value| samples.gauge(name, help, Vec::new(), value);
    if let Some(transfer) = around.transfer {
        gauge(
            "transfer_chunks",
            "Chunks of the state that is fetched",
            transfer.chunks.unwrap_or(0),
        );
        gauge(
            "transfer_chunks_done",
            "Chunks behind this pass",
            transfer.looked_at,
        );
        gauge(
            "transfer_pass",
            "The pass over the state, from 1",
            transfer.pass.into(),
        );
        gauge(
            "transfer_bytes",
            "Bytes of the state taken so far",
            transfer.bytes,
        );
    }
    if let Some(recovered) = around.recovered {
        let bytes = "What the others sent until this process took part";
        gauge("recovery_received_bytes", bytes, recovered.bytes);
        let help = "How long this process took to get its state back";
        samples.real(
            "recovery_duration_seconds",
            help,
            Vec::new(),
            recovered.seconds,
        );
    }
}

/// What the replica knows of another.
fn peer(samples: &mut Samples, peer: &Peer) {
    let label = || vec![("peer", peer.replica.to_string())];
    let mut gauge = |name, help, value| samples.gauge(name, help, label(), value);
    gauge("peer_op", "The last op the peer holds", peer.sequence.op);
    gauge(
        "peer_applied_op",
        "The last op the peer executed",
        peer.sequence.applied,
    );
    gauge(
        "peer_suspect",
        "1: too slow, left out of the chain",
        peer.suspect.into(),
    );
    gauge(
        "peer_connected",
        "1 while there is a connection",
        peer.connected.into(),
    );
    let mut real = |name, help, value| samples.real(name, help, label(), value);
    if let Some(ms) = peer.heard_ms {
        real(
            "peer_silence_seconds",
            "Since the peer was heard",
            ms as f64 / 1e3,
        );
    }
    if let Some(us) = peer.round_trip_us {
        real("peer_round_trip_seconds", "A ping and its answer", us / 1e6);
    }
}

/// What the replica has counted.
pub fn counters(samples: &mut Samples, counters: &Counters) {
    for (event, count) in counters.events() {
        let labels = vec![("event", event.to_owned())];
        samples.counter("events", "What the replica did, by event", labels, count);
    }
    for (reason, count) in counters.drops_by_reason() {
        let labels = vec![("reason", reason.to_owned())];
        samples.counter(
            "messages_dropped",
            "Messages ignored, by reason",
            labels,
            count,
        );
    }
    for (command, received, sent) in counters.messages() {
        let label = || vec![("command", command.name().to_owned())];
        samples.counter(
            "messages_received",
            "Messages received, by command",
            label(),
            received,
        );
        samples.counter("messages_sent", "Messages sent, by command", label(), sent);
    }
}

/// A pool of the memory plan. Its counts are in the pool's own unit, which is a label.
fn one_pool(samples: &mut Samples, pool: &PoolReport) {
    let name = || ("pool", pool.pool.clone());
    let mut gauge = |family, help, labels, value: Option<u64>| {
        if let Some(value) = value {
            samples.gauge(family, help, labels, value);
        }
    };
    let help = "The memory plan, by pool";
    gauge("memory_bytes", help, vec![name()], Some(pool.bytes));
    let help = "Of a pool of buffers, the most bytes that one of them held";
    gauge("pool_fullest_bytes", help, vec![name()], pool.fullest_bytes);
    let labels = || vec![name(), ("unit", pool.unit.clone())];
    let help = "How many units a pool has";
    gauge("pool_capacity", help, labels(), Some(pool.count));
    let help = "How many units of a pool are in use";
    gauge("pool_used", help, labels(), pool.used);
    let help = "The most units of a pool that were in use at once since the start";
    gauge("pool_high_water", help, labels(), pool.high_water);
}

/// The memory plan by part and by pool, and what the process really uses.
pub fn memory(samples: &mut Samples, plan: &Plan, levels: &[Level]) {
    for (part, bytes) in plan.parts() {
        let labels = vec![("part", part.to_owned())];
        samples.gauge(
            "memory_part_bytes",
            "The memory plan, by part",
            labels,
            bytes as u64,
        );
    }
    for pool in plan.reports(levels) {
        one_pool(samples, &pool);
    }
    if let Some(bytes) = resident_bytes() {
        let help = "Memory that the process has touched";
        samples.gauge("process_resident_memory_bytes", help, Vec::new(), bytes);
    }
}

/// What the RESP port has counted.
pub fn gateway(samples: &mut Samples, counters: &GatewayCounters) {
    for (name, value) in counters.iter() {
        if name == "connected_clients" {
            samples.gauge(
                "resp_clients",
                "Redis clients connected now",
                Vec::new(),
                value,
            );
        } else {
            let labels = vec![("event", name.to_owned())];
            samples.counter(
                "resp_events",
                "What happened on the RESP port",
                labels,
                value,
            );
        }
    }
}

/// What the key-value machine says of itself.
pub fn key_values(samples: &mut Samples, report: &KvReport) {
    let mut gauge = |name, help, value| samples.gauge(name, help, Vec::new(), value);
    gauge(
        "keys",
        "Keys, those included that are due and wait for the sweep",
        report.keys,
    );
    gauge("keys_expiring", "Keys with a deadline", report.expiring);
    gauge(
        "kv_used_bytes",
        "Bytes that hold entries",
        report.used_bytes,
    );
    gauge(
        "kv_image_bytes",
        "Bytes of the whole image",
        report.image_bytes,
    );
    gauge("kv_limit_bytes", "Bytes of the arena", report.limit_bytes);
    let help = "Changes of keys since the cluster began";
    samples.counter("kv_changes", help, Vec::new(), report.changes);
}

/// The resident size of this process, where the system says it.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_counters_and_labels_are_written_as_openmetrics_wants_them() {
        let mut samples = Samples::default();
        samples.gauge(
            "memory_part_bytes",
            "By part",
            vec![("part", "journal".into())],
            5,
        );
        samples.gauge(
            "memory_part_bytes",
            "By part",
            vec![("part", "a \"b\"".into())],
            6,
        );
        samples.counter("events", "Things", vec![("event", "x".into())], 7);
        samples.real("uptime_seconds", "Since start", Vec::new(), 1.5);
        let text = samples.text();
        for line in [
            "# TYPE vsr_memory_part_bytes gauge",
            "vsr_memory_part_bytes{part=\"journal\"} 5",
            "vsr_memory_part_bytes{part=\"a \\\"b\\\"\"} 6",
            "# TYPE vsr_events counter",
            "vsr_events_total{event=\"x\"} 7",
            "vsr_uptime_seconds 1.5",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        let heads = text
            .lines()
            .filter(|line| line.starts_with("# TYPE vsr_memory_part"))
            .count();
        assert_eq!(heads, 1, "a family is announced once");
    }

    #[test]
    fn this_process_uses_some_memory() {
        if cfg!(target_os = "linux") {
            assert!(resident_bytes().expect("Linux says so") > 100_000);
        }
    }
}

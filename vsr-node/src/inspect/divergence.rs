//! Replicas whose states differ, in words: where, since when, who says what, and which operations may have
//! done it (N16).

use serde::{Deserialize, Serialize};
use vsr_consensus::{DivergenceReport, Replica, StateMachine};
use vsr_types::{Batch, Op, ReplicaIndex};

/// The most operations that are listed.
const OPERATIONS_MAX: usize = 32;
/// The most entries of the log that are looked at for them.
const ENTRIES_MAX: u64 = 256;
/// How many of an operation's bytes are shown.
const BYTES_MAX: usize = 48;

/// The last time that replicas were seen to have different states at the same op.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The first op at which their digests were seen to differ.
    pub op: u64,
    /// The last op before that at which they were equal: something after this op, and not after
    /// [`Self::op`], had another effect on one replica than on another.
    pub since_op: u64,
    /// What each replica said, by index; none: it has said nothing about this op.
    pub digests: Vec<Option<String>>,
    /// Operations between the two ops, as far as the journal still holds them; the first ones.
    pub operations: Vec<Suspect>,
}

/// An operation that may have had different effects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Its place in the log.
    pub op: u64,
    /// Its place in that op's batch.
    pub index: u32,
    /// Who asked for it.
    pub client: String,
    /// Under which number.
    pub request: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its first bytes, what is no printable ASCII character escaped.
    pub begins: String,
}

/// The last divergence that this replica has seen; none: it has seen none in this life.
#[must_use]
pub fn divergence<S: StateMachine>(replica: &Replica<S>) -> Option<Divergence> {
    let report = replica.divergence()?;
    let replicas = replica.config().replicas;
    let digests = ReplicaIndex::all(replicas).zip(&report.digests);
    Some(Divergence {
        op: report.op.raw(),
        since_op: report.since.raw(),
        digests: digests
            .map(|(_, digest)| digest.map(|digest| digest.to_string()))
            .collect(),
        operations: suspects(replica, report),
    })
}

fn suspects<S: StateMachine>(replica: &Replica<S>, report: &DivergenceReport) -> Vec<Suspect> {
    let tail = replica.report().tail;
    let first = report.since.next().max(tail);
    let last = report
        .op
        .min(Op::new(first.raw().saturating_add(ENTRIES_MAX)));
    let mut suspects = Vec::new();
    for op in first.raw()..=last.raw() {
        let body = replica.log_body(Op::new(op));
        let Some(batch) = body.and_then(|body| Batch::parse(body).ok()) else {
            continue;
        };
        for (index, request) in (0_u32..).zip(batch.requests()) {
            if suspects.len() == OPERATIONS_MAX {
                return suspects;
            }
            let operation = request.operation();
            suspects.push(Suspect {
                op,
                index,
                client: request.header().client.to_string(),
                request: request.header().request.raw(),
                size_bytes: operation.len() as u64,
                begins: operation
                    .iter()
                    .take(BYTES_MAX)
                    .flat_map(|byte| byte.escape_ascii())
                    .map(char::from)
                    .collect(),
            });
        }
    }
    suspects
}

impl Divergence {
    /// In one line, for the log.
    #[must_use]
    pub fn text(&self) -> String {
        let say = |(replica, digest): (usize, &Option<String>)| {
            let digest = digest.as_deref().unwrap_or("says nothing");
            format!("replica {replica}: {digest}")
        };
        let digests: Vec<String> = self.digests.iter().enumerate().map(say).collect();
        format!(
            "the states differ at op {}; they were equal at op {}; {}",
            self.op,
            self.since_op,
            digests.join(", ")
        )
    }

    /// Writes everything that is known into the log.
    pub fn log(&self) {
        tracing::error!("{}", self.text());
        for suspect in &self.operations {
            tracing::error!(
                op = suspect.op,
                index = suspect.index,
                client = suspect.client,
                request = suspect.request,
                size_bytes = suspect.size_bytes,
                begins = %suspect.begins,
                "may have had another effect on another replica"
            );
        }
    }
}

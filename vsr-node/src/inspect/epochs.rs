//! Where in its epoch a replica is, and what becomes of the epoch's end (N22).
//!
//! Numbers for people begin again in every epoch; what is to be compared or subtracted is the place in the
//! whole sequence, which never does.

use serde::{Deserialize, Serialize};
use vsr_consensus::{OnOpMax, Report};
use vsr_types::{Op, OpMax};

use crate::archive;

/// Places in the whole sequence of ops, over all epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// The last op in the log.
    pub op: u64,
    /// The last op known to be committed; of another replica: not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
    /// The last op executed.
    pub applied: u64,
    /// The oldest op whose batch is held.
    pub tail: u64,
}

impl Sequence {
    pub(super) const fn of(report: &Report) -> Self {
        Self {
            op: report.op.raw(),
            commit: Some(report.commit.raw()),
            applied: report.applied.raw(),
            tail: report.tail.raw(),
        }
    }

    pub(super) const fn of_peer(peer: &vsr_consensus::PeerReport) -> Self {
        Self {
            op: peer.op.raw(),
            commit: None,
            applied: peer.applied.raw(),
            tail: peer.tail.raw(),
        }
    }
}

/// How far the epoch has come, and its archive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochEnd {
    /// How many ops an epoch has.
    pub op_max: u64,
    /// What happens then: `halt`, `reset` or `archive`.
    pub on_op_max: String,
    /// How many ops are left of it.
    pub ops_left: u64,
    /// `none`, `near` (nine tenths are used), `close` (99 hundredths) or `full`.
    pub warning: String,
    /// The epoch that this primary's node is to archive before the next one begins: clients wait.
    pub archive_due: Option<u64>,
    /// What became of archives here, if epochs are archived.
    pub archives: Option<Archives>,
}

/// What became of a node's archives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Archives {
    /// How many were written by this process.
    pub written: u64,
    /// How many attempts failed.
    pub failed: u64,
    /// Why the last attempt failed; none: it did not.
    pub error: Option<String>,
    /// The last one written.
    pub last: Option<Archive>,
}

/// An archive that was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Archive {
    /// Whose end it holds.
    pub epoch: u64,
    /// Where it is.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// How long writing it took.
    pub seconds: f64,
}

/// The number of `op` in its epoch: what people see.
pub(super) const fn number(op_max: OpMax, op: Op) -> u64 {
    op_max.name(op).number
}

pub(super) fn epoch_end(report: &Report, archives: &archive::Report) -> EpochEnd {
    let is_archiving = report.on_op_max == OnOpMax::Archive;
    EpochEnd {
        op_max: report.op_max.raw(),
        on_op_max: report.on_op_max.name().into(),
        ops_left: report.ops_left,
        warning: report.warning.name().into(),
        archive_due: report.archive_due.map(vsr_types::Epoch::raw),
        archives: is_archiving.then(|| Archives {
            written: archives.written,
            failed: archives.failed,
            error: archives.error.clone(),
            last: archives
                .last
                .as_ref()
                .map(|(epoch, written, took)| Archive {
                    epoch: epoch.raw(),
                    path: written.path.clone(),
                    bytes: written.bytes,
                    seconds: took.as_secs_f64(),
                }),
        }),
    }
}

/// Why a replica that waits for an archive is not ready: it serves reads, and nobody can write.
pub(super) fn waiting_text(report: &Report, archives: &archive::Report) -> Option<String> {
    let epoch = report.archive_due?;
    let error = archives.error.as_ref()?;
    Some(format!(
        "epoch {epoch} cannot be archived, so nothing can be written: {error}; reads go on"
    ))
}

//! The memory plan with its levels, and every other bound. Topic `limits`.

use serde::{Deserialize, Serialize};
use vsr_types::limits as bounds;
use vsr_types::memory::Level;

use crate::config::Config;
use crate::metrics::resident_bytes;
use crate::plan::{Plan, PoolReport};
use crate::residency::huge_bytes;

/// The bounds. Topic `limits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The sum of the memory plan.
    pub memory_bytes: u64,
    /// What of it was allocated at the start; the rest is taken by libraries, bit by bit.
    pub start_bytes: u64,
    /// What the process has in memory, with code and runtime; none where the system does not say.
    pub resident_bytes: Option<u64>,
    /// What of it lies in huge pages.
    pub huge_bytes: Option<u64>,
    /// The memory plan by part.
    pub memory: Vec<Part>,
    /// The memory plan by pool, and how much of each is used.
    pub pools: Vec<PoolReport>,
    /// Every other bound.
    pub limits: Vec<Part>,
}

/// A named number of bytes or things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    pub name: String,
    /// How much of it.
    pub value: u64,
}

/// The memory plan and every bound.
#[must_use]
pub fn limits(config: &Config, plan: Option<&Plan>, levels: &[Level]) -> Limits {
    let part = |name: &str, value: usize| Part {
        name: name.into(),
        value: value as u64,
    };
    let consensus = &config.consensus;
    let parts = plan.map(Plan::parts).unwrap_or_default();
    Limits {
        memory_bytes: plan.map_or(0, Plan::bytes) as u64,
        start_bytes: plan.map_or(0, Plan::bytes_at_start) as u64,
        resident_bytes: resident_bytes(),
        huge_bytes: huge_bytes(),
        memory: parts
            .iter()
            .map(|(name, bytes)| part(name, *bytes))
            .collect(),
        pools: plan.map(|plan| plan.reports(levels)).unwrap_or_default(),
        limits: vec![
            part("replicas_max", bounds::REPLICAS_MAX),
            part("frame_size_max_bytes", bounds::FRAME_SIZE_MAX),
            part("operation_size_max_bytes", bounds::OPERATION_SIZE_MAX),
            part("reply_size_max_bytes", bounds::REPLY_SIZE_MAX),
            part("batch_size_max_bytes", consensus.batch_size_max),
            part("batch_requests_max", bounds::BATCH_REQUESTS_MAX as usize),
            part("pipeline", consensus.pipeline),
            part("journal_slots", consensus.journal_slots),
            part("journal_bytes", consensus.journal_bytes),
            part("sessions", consensus.sessions),
            part("clients_max", config.clients_max),
            part("resp_lanes", config.resp_lanes),
        ],
    }
}

//! A whole cluster in one thread: real replicas, a network that does what it is told, a clock that
//! stands still until it is moved.
//!
//! Everything is deterministic, so a test is a story: who says what, what is lost, what arrives twice.
//! [`Cluster`] drives the replicas as their driver's contract says: hand over every message that is
//! ready, then the deadline for as long as it is due.
#![allow(
    dead_code,
    reason = "each test binary uses its own part of the support"
)]
#![allow(unused_imports, reason = "the same")]
#![allow(
    unreachable_pub,
    reason = "a module of test binaries, which export nothing"
)]

mod client;
mod cluster;
mod forge;
mod ledger;
mod network;
mod random;
mod show;

pub use client::{Answer, Client, query_frame, request_frame};
pub use cluster::{Cluster, TICK};
pub use forge::{forge, forge_fields, header_of};
pub use ledger::{Executed, Ledger};
pub use network::{Link, Network, Node, Packet};
pub use random::{Random, chosen_seeds};
pub use show::{describe, short};

//! Diskless Viewstamped Replication as a pure state machine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod config;
mod counters;
mod digests;
mod door;
mod machine;
mod random;
mod replica;
mod sessions;

pub use config::{Config, ConfigError, Settings};
pub use counters::{Counters, Event};
pub use door::{Boot, DropReason, HaltReason, Input, Outbox, Outcome, PeerReport, Report, Sent};
pub use machine::{Context, ImageError, Refusal, Scrub, StateMachine};
pub use replica::Replica;
pub use sessions::SessionReport;

//! Diskless Viewstamped Replication as a pure state machine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod machine;

pub use machine::{Context, ImageError, Refusal, Scrub, StateMachine};

//! Diskless Viewstamped Replication as a pure state machine.
//!
//! Machines agree on the order of operations, not on the contents of storage: a primary numbers
//! operations, sends them down a chain of backups in batches, commits what a quorum holds, and all
//! execute the same operations in the same order. The protocol is that of Liskov and Cowling,
//! *Viewstamped Replication Revisited* (2012), without a disk.
//!
//! This crate is the protocol and nothing else. [`Replica`] has one door in ([`Replica::step`]), one
//! sink out ([`Outbox`]), and one deadline ([`Replica::next_deadline`]). It never waits, allocates,
//! reads a clock or draws a random number of its own, so the same code runs in a server, in a test,
//! and in a simulator at thousands of times real speed. What it replicates is a [`StateMachine`].
//!
//! ```text
//!              Input::Message(frame)                 Outbox::peer / client / sender
//!   sockets ----------------------> Replica::step ------------------------------> sockets
//!   clock   ----------------------> (one thread, no queue)
//!              Input::Deadline            |
//!                                         '--> StateMachine::apply, query
//! ```
//!
//! # The run loop
//!
//! 1. Hand over every message that is ready.
//! 2. While [`Replica::next_deadline`] is not later than now, step [`Input::Deadline`] and flush what
//!    the outbox took.
//! 3. Wait for a message, or until the deadline.
//!
//! A cluster of one, driven by hand:
//!
//! ```
//! use vsr_consensus::{Boot, Input, Outbox, Replica, Sent, Settings};
//! # use vsr_consensus::{Context, ImageError, Refusal, Scrub, StateMachine};
//! use vsr_types::{ClientId, Header, Instant, MemberId, Nonce, Now, ReplicaIndex, Timestamp};
//! # struct Nothing;
//! # impl StateMachine for Nothing {
//! #     fn validate(&self, _: &[u8]) -> Result<(), Refusal> { Ok(()) }
//! #     fn apply(&mut self, _: &Context, _: &[u8], _: &mut [u8]) -> usize { 0 }
//! #     fn query(&self, _: &Context, _: &[u8], _: &mut [u8]) -> usize { 0 }
//! #     fn digest(&self) -> vsr_types::Digest { vsr_types::Digest::ZERO }
//! #     fn image_chunks(&self) -> u64 { 0 }
//! #     fn image_chunk_size(&self) -> usize { 1 }
//! #     fn image_changed_at(&self, _: u64) -> vsr_types::Op { vsr_types::Op::ZERO }
//! #     fn image_read(&self, _: u64, _: &mut [u8]) -> usize { 0 }
//! #     fn image_begin(&mut self, _: u64) -> Result<(), ImageError> { Ok(()) }
//! #     fn image_put(&mut self, _: u64, _: &[u8]) -> Result<(), ImageError> { Ok(()) }
//! #     fn image_finish(&mut self, _: vsr_types::Op) -> Result<(), ImageError> { Ok(()) }
//! #     fn scrub(&mut self, _: usize) -> Scrub { Scrub::Clean }
//! # }
//!
//! /// Where messages leave: here they are counted; a server copies them into its send buffers.
//! #[derive(Default)]
//! struct Count(usize);
//! impl Outbox for Count {
//!     fn peer(&mut self, _: ReplicaIndex, _: &Header, _: &[u8]) -> Sent {
//!         self.0 += 1;
//!         Sent::Queued
//!     }
//!     fn client(&mut self, _: ClientId, _: &Header, _: &[u8]) -> Sent {
//!         self.0 += 1;
//!         Sent::Queued
//!     }
//!     fn sender(&mut self, _: &Header, _: &[u8]) -> Sent {
//!         self.0 += 1;
//!         Sent::Queued
//!     }
//! }
//!
//! let config = Settings::new(ReplicaIndex::new(0), 1).validate()?;
//! let boot = Boot { member: MemberId::new(1), nonce: Nonce::new(2), seed: 3 };
//! let mut replica = Replica::new(&config, boot, Nothing);
//! let now = Now { monotonic: Instant::from_nanos(1), wall: Timestamp::from_nanos(1) };
//! let mut out = Count::default();
//! while replica.next_deadline() <= now.monotonic {
//!     replica.step(now, Input::Deadline, &mut out);
//! }
//! assert_eq!(out.0, 0, "alone and blank: nothing to say, nobody to say it to");
//! # Ok::<(), vsr_consensus::ConfigError>(())
//! ```
//!
//! **Architecture invariants.** No I/O, no clock, no threads, no hash order. Everything is allocated
//! in [`Replica::new`]. Peers' bytes never cause a panic; a broken invariant of our own always does.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "sim")]
extern crate std;

mod config;
mod counters;
mod digests;
mod door;
mod machine;
mod mutants;
mod random;
mod replica;
mod sessions;
#[cfg(feature = "sim")]
pub mod sim;

pub use config::{Config, ConfigError, OnOpMax, Settings};
pub use counters::{Counters, Event};
pub use digests::DivergenceReport;
pub use door::{
    Boot, DropReason, EpochWarning, HaltReason, Input, Outbox, Outcome, PeerReport, Report, Sent,
};
pub use machine::{CHUNK_UNKNOWN, Context, ImageError, Refusal, Scrub, StateMachine};
#[cfg(feature = "mutate")]
pub use mutants::Mutant;
#[cfg(feature = "flip")]
pub use replica::Place;
pub use replica::{
    Finding, FindingKind, FindingTotals, FoundBy, RecoveryPhase, RecoveryReport, Remedy, Replica,
    ScrubReport, TransferReport,
};
pub use sessions::SessionReport;

//! Sockets for a vsr cluster: what lies between a TCP stream and a [`vsr_types::Frame`].
//!
//! The replica never waits and never sees a socket; this crate never decides anything about the
//! protocol. It owns the bytes in between:
//!
//! ```text
//!   socket -> Ingress (fixed buffer, size checked before a body is taken) -> Frame::parse
//!   Header + body -> Egress (bounded ring; drops the oldest or pushes back) -> socket
//! ```
//!
//! - [`handshake`]: who may talk to whom, and the sentence that says why not.
//! - [`Ingress`], [`Egress`]: one connection's two buffers, both of fixed size.
//! - [`dial`]: names resolved at every attempt, [`Backoff`] between attempts.
//! - [`Client`]: register, execute exactly once, query; follows the primary.
//! - [`Tool`], [`init`] and [`export`]: what operators ask of single replicas, how a cluster begins, and how
//!   its state becomes a file.
//!
//! **Architecture invariants.** No buffer here grows after it was made. No byte of a body is taken
//! before its size is known to be bounded. Bytes from outside are never a reason to panic.
#![forbid(unsafe_code)]

mod backoff;
pub mod client;
mod connection;
pub mod dial;
mod egress;
pub mod export;
pub mod handshake;
mod ingress;
pub mod init;
mod random;
mod tool;

pub use backoff::Backoff;
pub use client::{Client, ClientError, ClientOptions};
pub use connection::{Connection, ConnectionError};
pub use egress::{Egress, Flushed};
pub use ingress::{Ingress, READ_SIZE_MAX};
pub use random::Random;
pub use tool::{PingReport, Tool, ToolError};

//! A replica as a process: the loop, its configuration, the built-in key-value machine, and the ports
//! for Redis clients, for Prometheus and for people.
//!
//! ```text
//!  Redis clients      peers, native clients, tools      Prometheus, people
//!        |                        |                             |
//!     gateway  ------------->  server  <-------------------   admin
//!   (resp, lanes)        (sockets, one turn)            (inspect, metrics)
//!                                |
//!                      Replica<S: StateMachine>
//!                       S = kv::KvMachine, or yours
//! ```
//!
//! - [`config`]: what an operator may choose, from flags, environment and file, validated once.
//! - [`kv`]: the built-in machine. [`simple`]: a machine of your own in four methods.
//! - [`gateway`] and [`resp`]: the port for Redis clients.
//! - [`admin`], [`inspect`], [`metrics`]: what a node says of itself.
//! - [`archive`]: an epoch that ends is archived before the next one begins.
//! - [`image`]: states as files: exports, archives, what a new cluster begins with.
//! - [`local`], [`dev`], [`demo`]: throw-away clusters of child processes.
//! - [`plan`]: the memory that a node takes; [`residency`]: that it is there, and stays.
//! - [`doubt`]: a process that cannot trust its memory begins again.
#![forbid(unsafe_code)]

pub mod admin;
pub mod archive;
pub mod banner;
pub mod config;
pub mod demo;
pub mod dev;
pub mod doubt;
#[cfg(feature = "flip")]
mod flip;
pub mod gateway;
pub mod image;
pub mod inspect;
pub mod kv;
pub mod local;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod plan;
pub mod residency;
pub mod resp;
mod resp_port;
pub mod server;
pub mod simple;

pub use config::{Config, ConfigError};
pub use node::{Node, NodeError};

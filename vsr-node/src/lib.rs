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
//! - [`local`], [`dev`], [`demo`]: throw-away clusters of child processes.
#![forbid(unsafe_code)]

pub mod admin;
pub mod banner;
pub mod config;
pub mod demo;
pub mod dev;
pub mod gateway;
pub mod inspect;
pub mod kv;
pub mod local;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod resp;
mod resp_port;
pub mod server;
pub mod simple;

pub use config::{Config, ConfigError};
pub use node::{Node, NodeError};

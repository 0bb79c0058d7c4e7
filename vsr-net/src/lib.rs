//! Sockets for a vsr cluster.
#![forbid(unsafe_code)]

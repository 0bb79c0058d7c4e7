//! The in-memory log of a replica.
#![no_std]
#![forbid(unsafe_code)]

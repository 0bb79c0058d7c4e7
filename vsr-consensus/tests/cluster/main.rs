//! Whole clusters in one thread: transcripts, scenarios, random schedules, and bytes that lie.

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod load;
mod scenarios;
mod schedules;
mod transcripts;

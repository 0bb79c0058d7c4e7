//! A replica as a process.
#![forbid(unsafe_code)]

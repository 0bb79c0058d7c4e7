//! Log lines: to standard error, as text or as JSON, at one level. Metrics count what happens often;
//! logs tell what happens seldom.

use std::io::IsTerminal;

use tracing_subscriber::fmt;

use crate::config::{Config, LogFormat};

/// Starts logging for the whole process. Does nothing when somebody else has done it before.
pub fn start(config: &Config) {
    let builder = fmt()
        .with_max_level(config.log_level)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let started = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}

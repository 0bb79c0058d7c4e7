//! How a command ends when it does not end well: an exit code for scripts, a sentence for people,
//! and what to do next.

use std::fmt;
use std::process::ExitCode;

/// The exit codes, the same as those of `vsr-node`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The cluster refuses, for its own safety.
    Refused = 3,
    /// Replicas hold different states at the same op.
    Divergence = 4,
}

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    next: Option<String>,
}

impl Failure {
    /// It did not work: exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::with(Exit::Failed, message)
    }

    /// With another exit code.
    pub(crate) fn with(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            next: None,
        }
    }

    /// Says what to do next.
    pub(crate) fn next(mut self, advice: impl Into<String>) -> Self {
        self.next = Some(advice.into());
        self
    }

    /// What went wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do next, if anything helps.
    pub(crate) fn advice(&self) -> Option<&str> {
        self.next.as_deref()
    }

    /// The code for the shell.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_to_do_next() {
        let failure = Failure::with(Exit::Refused, "R1 is not blank").next("look at `status`");
        assert_eq!(
            failure.to_string(),
            "R1 is not blank\n  next: look at `status`"
        );
        assert_eq!(failure.exit() as u8, 3);
    }
}

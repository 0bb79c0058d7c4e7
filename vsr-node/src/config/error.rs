//! What is wrong with a configuration, in words that say what would be right.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from. Later ones override earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody chose it.
    Default,
    /// A TOML file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// The command line, or [`super::Config::new`].
    Flag,
}

impl Origin {
    /// How strongly this origin speaks: flags over environment over file over defaults.
    #[must_use]
    pub const fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Flag => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "the default"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Environment(variable) => write!(f, "the environment variable {variable}"),
            Self::Flag => write!(f, "the command line"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which setting.
    pub field: String,
    /// What was given, as it was written; none: nothing.
    pub given: Option<String>,
    /// Where it came from.
    pub origin: Origin,
    /// What is wrong with it.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.wrong)?;
        if let Some(given) = &self.given {
            write!(f, "\n  given: {given:?} by {}", self.origin)?;
        }
        write!(f, "\n  right: {}", self.right)
    }
}

/// Everything that is wrong with a configuration: all of it at once, so that nobody has to start
/// five times to find five mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

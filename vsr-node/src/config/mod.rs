//! What an operator may choose, from four places, validated once.
//!
//! ```text
//! flags  >  VSR_<FLAG> environment  >  TOML file (--config)  >  defaults
//! ```
//!
//! Every setting is one line of [`FIELDS`]; [`Config`] is what comes out when all of them make sense
//! together, and nothing else can make one. What is wrong comes out as a [`ConfigError`] that names
//! every mistake: the setting, what was given, where, and what would be right.
//!
//! ```
//! use vsr_node::Config;
//! let config = Config::new("payments", "a:7000,b:7000,c:7000", 1)?.with("sessions", "100")?;
//! assert_eq!(config.listen, "b:7000");
//! let error = config.with("tick", "10").unwrap_err();
//! assert!(error.to_string().contains("perhaps 10ms"));
//! # Ok::<(), vsr_node::ConfigError>(())
//! ```

mod build;
mod error;
mod fields;
mod layers;
pub(crate) mod parse;
mod print;

use std::fmt;
use std::path::Path;
use std::time::Duration;

pub use error::{ConfigError, Origin, Problem};
pub use fields::{FIELDS, Field, Shape};
pub use layers::{Environment, Flags, misspelt_variables};
pub use parse::show_size;
pub use print::print_default;

use layers::Layers;

use crate::doubt::OnDoubt;

/// Settings that make sense together.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name.
    pub cluster: String,
    /// Every replica's `host:port`, in the order that is the same everywhere.
    pub peers: Vec<String>,
    /// Where the native port listens.
    pub listen: String,
    /// Where the RESP port listens; none: nowhere.
    pub resp: Option<String>,
    /// Where the admin port listens; none: nowhere.
    pub admin: Option<String>,
    /// The size of the key-value machine, in bytes.
    pub memory: usize,
    /// Whether all memory is made resident at the start.
    pub prefault: bool,
    /// Whether it is locked, so that it stays so.
    pub mlock: bool,
    /// Whether it is to lie in huge pages.
    pub huge_pages: bool,
    /// The replica's own settings.
    pub consensus: vsr_consensus::Config,
    /// Where epochs are archived; none: they are not.
    pub archive_dir: Option<std::path::PathBuf>,
    /// How long the loop looks for more before it sleeps.
    pub spin: Duration,
    /// How long a RESP client waits for a quorum.
    pub client_timeout: Duration,
    /// How long a shutdown waits for what is in flight.
    pub drain_timeout: Duration,
    /// Over how many sessions the RESP port spreads its connections.
    pub resp_lanes: usize,
    /// The most connections on the RESP port.
    pub clients_max: usize,
    /// The memory that clients of the RESP port share, in bytes.
    pub resp_buffers: usize,
    /// The most connections of native clients and tools.
    pub connections_max: usize,
    /// What RESP clients must give with AUTH; none: nothing.
    pub password: Option<Password>,
    /// What `vsr-node start` does when its memory cannot be trusted.
    pub on_doubt: OnDoubt,
    /// How much is logged.
    pub log_level: tracing::Level,
    /// How it is logged.
    pub log_format: LogFormat,
    layers: Layers,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A password: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The password itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Config {
    /// The configuration of replica `replica` of a cluster, everything else at its default except
    /// that neither the RESP nor the admin port is open. For programs that embed a replica; see
    /// [`Self::with`] for the rest.
    ///
    /// # Errors
    /// What is wrong with the three.
    pub fn new(cluster: &str, peers: &str, replica: u8) -> Result<Self, ConfigError> {
        let mut layers = Layers::defaults();
        layers.put("cluster", cluster, Origin::Flag);
        layers.put("peers", peers, Origin::Flag);
        layers.put("replica", replica.to_string(), Origin::Flag);
        layers.put("no-resp", "true", Origin::Default);
        layers.put("no-admin", "true", Origin::Default);
        build::build(layers)
    }

    /// The same with one setting changed, by its name and as one would write it on a command line.
    ///
    /// # Errors
    /// When there is no such setting, or the value is wrong, or does not go with the others.
    pub fn with(&self, name: &str, value: &str) -> Result<Self, ConfigError> {
        let Some(field) = fields::find(name) else {
            return Err(Problem {
                field: name.into(),
                given: Some(value.into()),
                origin: Origin::Flag,
                wrong: "there is no such setting".into(),
                right: fields::nearest(name).map_or_else(
                    || "one of the names in vsr_node::config::FIELDS".into(),
                    |field| format!("perhaps {}", field.name),
                ),
            }
            .into());
        };
        let mut layers = self.layers.clone();
        layers.put(field.name, value, Origin::Flag);
        build::build(layers)
    }

    /// What a process was told: flags, environment, and the file that either names.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(flags: &Flags, environment: &Environment<'_>) -> Result<Self, ConfigError> {
        build::build(Layers::collect(flags, environment)?)
    }

    /// Checks a TOML file by itself. Flags or the environment usually say which replica a process
    /// is, so a file need not; what it leaves to them is returned.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn check_file(path: &Path) -> Result<(Self, Vec<&'static str>), ConfigError> {
        let mut layers = Layers::defaults();
        layers.read_file(path)?;
        let mut missing = Vec::new();
        for (name, example) in [
            ("cluster", "example"),
            ("replica", "0"),
            ("peers", "a:1,b:1,c:1"),
        ] {
            if layers.get(name).is_none() {
                missing.push(name);
                layers.put(name, example, Origin::Default);
            }
        }
        Ok((build::build(layers)?, missing))
    }

    /// Every setting as it was written, with its name and its origin; for inspection. A setting
    /// without a value is left out.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &str, &Origin)> {
        FIELDS.iter().filter_map(|field| {
            let value = self.layers.get(field.name)?;
            Some((field.name, value.text.as_str(), &value.origin))
        })
    }
}

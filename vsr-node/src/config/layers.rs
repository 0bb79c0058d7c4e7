//! Collects what was said about each setting, and by whom: flags over environment over TOML over
//! defaults. Nothing is interpreted here except the shape of a TOML value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin, Problem};
use super::fields::{self, FIELDS, Field, Shape};

/// A setting as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    /// What was written.
    pub(crate) text: String,
    /// By whom.
    pub(crate) origin: Origin,
}

/// What was said about the settings; the strongest word for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    values: BTreeMap<&'static str, Value>,
}

impl Layers {
    /// What was said about the setting `name`; none: nothing, not even by default.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// Takes a value unless a stronger one is there.
    pub(crate) fn put(&mut self, name: &'static str, text: impl Into<String>, origin: Origin) {
        let weaker = self
            .values
            .get(name)
            .is_none_or(|old| old.origin.rank() <= origin.rank());
        if weaker {
            self.values.insert(
                name,
                Value {
                    text: text.into(),
                    origin,
                },
            );
        }
    }

    /// The defaults.
    pub(crate) fn defaults() -> Self {
        let mut layers = Self::default();
        for field in FIELDS {
            if let Some(default) = field.default {
                layers.put(field.name, default, Origin::Default);
            }
        }
        layers
    }

    /// Everything that a process is told: flags, environment, and the file that either names.
    pub(crate) fn collect(
        flags: &Flags,
        environment: &Environment<'_>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Self::defaults();
        let named = flags
            .config
            .clone()
            .or_else(|| environment("VSR_CONFIG").map(PathBuf::from));
        if let Some(path) = named {
            layers.read_file(&path)?;
        }
        for field in FIELDS {
            let variable = field.variable();
            let Some(value) = environment(&variable) else {
                continue;
            };
            let text = value.into_string().map_err(|bytes| Problem {
                field: field.name.into(),
                given: Some(bytes.to_string_lossy().into_owned()),
                origin: Origin::Environment(variable.clone()),
                wrong: "not valid UTF-8".into(),
                right: "text".into(),
            })?;
            layers.put(field.name, text, Origin::Environment(variable));
        }
        for (name, text) in &flags.given {
            layers.put(name, text.clone(), Origin::Flag);
        }
        Ok(layers)
    }

    /// Reads a TOML file on top of what is there.
    pub(crate) fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| Problem {
            field: "config".into(),
            given: Some(path.display().to_string()),
            origin: Origin::Flag,
            wrong: format!("cannot be read: {error}"),
            right: "a readable TOML file; `vsr-node config print-default` prints one".into(),
        })?;
        self.read_toml(&text, path)
    }

    /// Reads TOML text that came from `path`.
    pub(crate) fn read_toml(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let line_of = |at: usize| {
            1 + text.as_bytes()[..at.min(text.len())]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
        };
        let origin = |at: usize| Origin::File {
            path: path.to_owned(),
            line: line_of(at),
        };
        let table = DeTable::parse(text).map_err(|error| Problem {
            field: "config".into(),
            given: None,
            origin: origin(0),
            wrong: format!(
                "{} is not valid TOML: {}",
                path.display(),
                error.to_string().trim_end()
            ),
            right: "lines such as: cluster = \"payments\"".into(),
        })?;
        let mut problems = Vec::new();
        for (key, value) in table.get_ref() {
            let origin = origin(key.span().start);
            let Some(field) = fields::find(key.get_ref()) else {
                problems.push(unknown_key(key.get_ref(), origin));
                continue;
            };
            match toml_text(field, value.get_ref()) {
                Ok(text) => self.put(field.name, text, origin),
                Err(wrong) => problems.push(Problem {
                    field: field.name.into(),
                    given: Some(text[value.span()].to_owned()),
                    origin,
                    wrong,
                    right: toml_right(field),
                }),
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError { problems })
        }
    }
}

fn unknown_key(key: &str, origin: Origin) -> Problem {
    let right = match fields::nearest(key) {
        Some(field) => format!("perhaps {}", field.name),
        None => "one of the keys of `vsr-node config print-default`".into(),
    };
    Problem {
        field: key.into(),
        given: Some(key.into()),
        origin,
        wrong: "there is no such setting".into(),
        right,
    }
}

/// A TOML value as the text that a flag would have.
fn toml_text(field: &Field, value: &DeValue<'_>) -> Result<String, String> {
    match (field.shape, value) {
        (Shape::Switch, DeValue::Boolean(on)) => Ok(on.to_string()),
        (Shape::Number | Shape::Size, DeValue::Integer(integer)) if integer.radix() == 10 => {
            Ok(integer.as_str().to_owned())
        }
        (Shape::List, DeValue::Array(entries)) => {
            let texts: Option<Vec<&str>> = entries
                .iter()
                .map(|entry| entry.get_ref().as_str())
                .collect();
            texts
                .map(|texts| texts.join(","))
                .ok_or_else(|| "not only strings in the list".into())
        }
        (Shape::Switch, _) => Err(format!("a TOML {}", value.type_str())),
        (_, DeValue::String(text)) => Ok(text.clone().into_owned()),
        _ => Err(format!("a TOML {}", value.type_str())),
    }
}

fn toml_right(field: &Field) -> String {
    let example = match field.shape {
        Shape::Text => "a string",
        Shape::Number => "an integer, such as 4096",
        Shape::Size => "a string with a unit, such as \"512MiB\"",
        Shape::Duration => "a string with a unit, such as \"100ms\"",
        Shape::Switch => "true or false",
        Shape::List => "a list of strings, such as [\"a:7000\", \"b:7000\", \"c:7000\"]",
    };
    format!("{} = {example}", field.name)
}

/// How the environment is asked: a function, so that a test need not change its process's.
pub type Environment<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// The settings given on a command line. Made by clap from the table of settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// The settings given, and what was given.
    pub given: Vec<(&'static str, String)>,
}

impl Flags {
    fn argument(field: &'static Field) -> Arg {
        let mut help = field.help.to_owned();
        if let (Some(default), false) = (field.default, field.shape == Shape::Switch) {
            help.push_str(&format!(" [default: {default}]"));
        }
        let argument = Arg::new(field.name).long(field.name).help(help);
        if field.shape == Shape::Switch {
            argument.action(ArgAction::SetTrue)
        } else {
            argument
                .value_name(field.value)
                .action(ArgAction::Set)
                .allow_hyphen_values(true)
        }
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("A TOML file with any of these settings; flags and VSR_<FLAG> variables override it.");
        command.args(FIELDS.iter().map(Self::argument)).arg(config)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            given: Vec::new(),
        };
        for field in FIELDS {
            if field.shape == Shape::Switch {
                if matches.get_flag(field.name) {
                    flags.given.push((field.name, "true".into()));
                }
            } else if let Some(text) = matches.get_one::<String>(field.name) {
                flags.given.push((field.name, text.clone()));
            }
        }
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Environment variables that look like settings and are none, each with the name that was probably
/// meant. Names that look like no setting are left alone: they may well be somebody else's.
pub fn misspelt_variables<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, String)> {
    names
        .filter(|name| FIELDS.iter().all(|field| field.variable() != *name))
        .filter_map(|name| {
            let meant = fields::nearest(name.strip_prefix("VSR_")?)?;
            Some((name, meant.variable()))
        })
        .collect()
}

//! The memory plan of a node (N20): one list of pools, computed from the configuration alone.
//!
//! Everything that a node allocates when it starts is in it, with what it is for, how many of it there
//! are, and what each takes. The banner prints it by part, `vsr-cli inspect limits` and the metrics pool
//! by pool with how full each is and was; `docs/limits.md` holds it for the defaults. That it is the
//! truth is the business of `tests/plan.rs`, which looks at what an allocator was really asked for.
//!
//! What is not in it: the program's code, the async runtime, the allocator's own rounding, and what the
//! kernel keeps for sockets.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use vsr_consensus::StateMachine;
use vsr_types::limits;
use vsr_types::memory::{self, Level, Pool};

use crate::admin::Bounds;
use crate::config::{Config, show_size};
use crate::gateway::GatewayOptions;
use crate::kv::KvMachine;
use crate::server::ServerConfig;

/// Every pool of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pools: Vec<Pool>,
}

impl Plan {
    /// The plan of a node that serves a machine of type `S`, which itself allocates `machine`.
    #[must_use]
    pub fn new<S: StateMachine>(config: &Config, machine: &[Pool], with_resp: bool) -> Self {
        let mut pools = machine.to_vec();
        pools.extend(server_config(config).pools::<S>());
        if with_resp {
            pools.extend(gateway_options(config).pools());
        }
        if config.admin.is_some() {
            pools.extend(Bounds::default().pools());
        }
        Self { pools }
    }

    /// The plan of a node that serves the built-in key-value machine.
    #[must_use]
    pub fn of_key_values(config: &Config) -> Self {
        let machine = KvMachine::pools(config.memory);
        Self::new::<KvMachine>(config, &machine, config.resp.is_some())
    }

    /// Every pool.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The sum, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        memory::sum(&self.pools)
    }

    /// What of the sum is allocated at the start, and not bit by bit later.
    #[must_use]
    pub fn bytes_at_start(&self) -> usize {
        let at_start = self.pools.iter().filter(|pool| !pool.is_later);
        at_start.map(Pool::bytes).sum()
    }

    /// The sum of each part, in bytes, in the order in which the parts appear first.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, usize)> {
        let mut parts: Vec<(&'static str, usize)> = Vec::new();
        for pool in &self.pools {
            match parts.iter_mut().find(|(part, _)| *part == pool.part) {
                Some((_, bytes)) => *bytes += pool.bytes(),
                None => parts.push((pool.part, pool.bytes())),
            }
        }
        parts
    }

    /// Every pool with its level.
    #[must_use]
    pub fn reports(&self, levels: &[Level]) -> Vec<PoolReport> {
        let level = |pool: &Pool| levels.iter().find(|level| level.pool == pool.name);
        let report = |pool| PoolReport::new(pool, level(pool));
        self.pools.iter().map(report).collect()
    }

    /// The plan as a table of Markdown, for `docs/limits.md`.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| part, pool | what for | follows from | count | each | bytes | |\n\
             | --- | --- | --- | ---: | ---: | ---: | ---: |\n",
        );
        let mut row = |cells: [&str; 7]| {
            let _infallible = writeln!(text, "| {} |", cells.join(" | "));
        };
        for (part, bytes) in self.parts() {
            // Small, and the size of structures inside the program: not to be written down to the byte.
            let is_inside = part == "the rest";
            let exact = |bytes: usize| match is_inside {
                true => format!("< {} KiB", bytes.div_ceil(1024)),
                false => grouped(bytes),
            };
            let (sum, size) = (
                exact(bytes),
                if is_inside {
                    String::new()
                } else {
                    show_size(bytes)
                },
            );
            row([&format!("**{part}**"), "", "", "", "", &sum, &size]);
            for pool in self.pools.iter().filter(|pool| pool.part == part) {
                let setting = match pool.setting {
                    "fixed" => "fixed".to_owned(),
                    setting => format!("`--{setting}`"),
                };
                let later = if pool.is_later { "as they come" } else { "" };
                row([
                    pool.name,
                    pool.purpose,
                    &setting,
                    &format!("{} {}", grouped(pool.count), pool.unit),
                    &exact(pool.size),
                    &exact(pool.bytes()),
                    later,
                ]);
            }
        }
        let size = format!("**{}**", show_size(self.bytes()));
        row(["**all**", "", "", "", "", "", &size]);
        text
    }
}

/// A number with its thousands apart.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

/// A pool as tools see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Its name.
    pub pool: String,
    /// The part of the node that it belongs to.
    pub part: String,
    /// What it is for.
    pub purpose: String,
    /// The setting that its size follows from.
    pub setting: String,
    /// What is counted in it.
    pub unit: String,
    /// How many there are.
    pub count: u64,
    /// What each takes.
    pub size_bytes: u64,
    /// What all take.
    pub bytes: u64,
    /// How many are in use; none: not known.
    pub used: Option<u64>,
    /// The most that were in use at once since the start.
    pub high_water: Option<u64>,
    /// Of buffers, the most bytes that any of them held.
    pub fullest_bytes: Option<u64>,
}

impl PoolReport {
    fn new(pool: &Pool, level: Option<&Level>) -> Self {
        Self {
            pool: pool.name.into(),
            part: pool.part.into(),
            purpose: pool.purpose.into(),
            setting: pool.setting.into(),
            unit: pool.unit.into(),
            count: pool.count as u64,
            size_bytes: pool.size as u64,
            bytes: pool.bytes() as u64,
            used: level.map(|level| level.used as u64),
            high_water: level.map(|level| level.most as u64),
            fullest_bytes: level.and_then(|level| Some(level.fullest? as u64)),
        }
    }
}

/// What the server is made of.
pub(crate) fn server_config(config: &Config) -> ServerConfig {
    ServerConfig {
        connections_max: config.connections_max,
        spin: config.spin,
        prefault: config.prefault,
        ..ServerConfig::new(
            config.consensus.clone(),
            config.cluster.clone(),
            config.peers.clone(),
            config.listen.clone(),
        )
    }
}

/// What the RESP port is made of.
pub(crate) fn gateway_options(config: &Config) -> GatewayOptions {
    GatewayOptions {
        lanes: config.resp_lanes,
        clients_max: config.clients_max,
        buffers: config.resp_buffers,
        client_timeout: config.client_timeout,
        operation_size_max: limits::OPERATION_SIZE_MAX
            .min(config.consensus.batch_size_max - limits::BATCH_HEADER_SIZE)
            - limits::REQUEST_HEADER_SIZE,
        password: config
            .password
            .as_ref()
            .map(|password| password.expose().into()),
        prefault: config.prefault,
        ..GatewayOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(replicas: usize) -> Config {
        let peers: Vec<String> = (1..=7).map(|i| format!("h{i}:7000")).collect();
        Config::new("c", &peers[..replicas].join(","), 0)
            .and_then(|config| config.with("resp", "127.0.0.1:0"))
            .and_then(|config| config.with("admin", "127.0.0.1:0"))
            .expect("valid")
    }

    #[test]
    fn the_defaults_take_less_than_a_gibibyte_at_every_size() {
        for replicas in 1..=7 {
            let config = config(replicas);
            let plan = Plan::of_key_values(&config);
            let sum = plan.bytes();
            assert!(sum < 1 << 30, "{replicas} replicas: {sum} bytes, {plan:?}");
            assert!(
                sum > config.memory + config.consensus.journal_bytes,
                "nothing is left out"
            );
            assert_eq!(
                plan.parts().iter().map(|(_, bytes)| bytes).sum::<usize>(),
                sum
            );
        }
    }

    #[test]
    fn pools_have_names_of_their_own_and_settings_that_exist() {
        let plan = Plan::of_key_values(&config(3));
        for (index, pool) in plan.pools().iter().enumerate() {
            let others = &plan.pools()[..index];
            assert!(
                others.iter().all(|other| other.name != pool.name),
                "{} is there twice",
                pool.name
            );
            let exists = crate::config::FIELDS.iter().any(|f| f.name == pool.setting);
            assert!(pool.setting == "fixed" || exists, "{pool:?}");
            assert!(!pool.purpose.is_empty() && !pool.unit.is_empty());
        }
    }
}

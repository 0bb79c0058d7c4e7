//! What a node says of itself when it starts: who it is, where it listens, what it takes, what it
//! survives, and what to do next.

use std::fmt::Write as _;

use crate::config::{Config, show_size};
use crate::inspect::VERSION;
use crate::plan::Plan;

/// Where a node really listens: port 0 has become a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Peers, native clients, tools.
    pub native: String,
    /// Redis clients.
    pub resp: Option<String>,
    /// HTTP.
    pub admin: Option<String>,
}

/// The text.
#[must_use]
pub fn text(config: &Config, addresses: &Addresses, plan: &Plan) -> String {
    let mut text = format!("vsr-node {VERSION}\n\n");
    let mut line = |name: &str, value: &str| {
        let _infallible = writeln!(text, "  {name:<9} {value}");
    };
    let consensus = &config.consensus;
    line("cluster", &config.cluster);
    line(
        "replica",
        &format!(
            "{} of {}: {}",
            consensus.replica,
            consensus.replicas,
            survives(config)
        ),
    );
    for (index, peer) in config.peers.iter().enumerate() {
        let here = if index == consensus.replica.as_usize() {
            "  (this one)"
        } else {
            ""
        };
        line(
            if index == 0 { "peers" } else { "" },
            &format!("R{index} {peer}{here}"),
        );
    }
    line(
        "native",
        &format!("{}  replicas, native clients, vsr-cli", addresses.native),
    );
    match &addresses.resp {
        Some(resp) => line("resp", &format!("{resp}  Redis clients")),
        None => line("resp", "off"),
    }
    match &addresses.admin {
        Some(admin) => line(
            "admin",
            &format!("http://{admin}  /metrics /livez /readyz /status"),
        ),
        None => line("admin", "off"),
    }
    line("memory", &memory(config, plan));
    for (part, bytes) in plan.parts() {
        line("", &format!("{:>10}  {part}", show_size(bytes)));
    }
    line("next", &next(config));
    text
}

/// How much memory is taken, and how.
fn memory(config: &Config, plan: &Plan) -> String {
    let sum = show_size(plan.bytes());
    let when = if config.prefault {
        "resident now"
    } else {
        "reserved now, resident when used"
    };
    format!("{sum}, {when}; pool by pool: vsr-cli inspect limits")
}

/// How many crashes the cluster survives, in words.
#[must_use]
pub fn survives(config: &Config) -> &'static str {
    match (
        config.consensus.replicas,
        config.consensus.failures_survived(),
    ) {
        (1, _) => "survives no crash (for development; use 3 or more replicas for data you need)",
        (2, _) => "survives no crash (two need both; use 3 or more replicas for data you need)",
        (_, 1) => "survives 1 crash",
        (_, 2) => "survives 2 crashes at the same time",
        _ => "survives 3 crashes at the same time",
    }
}

fn next(config: &Config) -> String {
    let indent = " ".repeat(12);
    let how_many = match config.consensus.replicas {
        1 => "Form the cluster, once:".to_owned(),
        n => format!(
            "If the cluster exists, it recovers from the others by itself. If not: when all {n} are up,\n\
             {indent}form it, once:"
        ),
    };
    let endpoints = config.peers.join(",");
    format!(
        "This replica is blank: it holds nothing and waits.\n\
         {indent}{how_many}\n\
         {indent}  vsr-cli --endpoints {endpoints} init"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(peers: &str) -> String {
        let config = Config::new("payments", peers, 0).expect("valid");
        let addresses = Addresses {
            native: "10.0.0.1:7000".into(),
            resp: Some("127.0.0.1:6379".into()),
            admin: None,
        };
        text(&config, &addresses, &Plan::of_key_values(&config))
    }

    #[test]
    fn it_says_what_a_newcomer_wants_to_know() {
        let text = banner("a:7000,b:7000,c:7000");
        for part in [
            VERSION,
            "payments",
            "R0 of 3: survives 1 crash",
            "R0 a:7000  (this one)",
            "R2 c:7000",
            "127.0.0.1:6379",
            "admin     off",
            ", resident now",
            "512.0 MiB  key-value machine",
            "vsr-cli --endpoints a:7000,b:7000,c:7000 init",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn one_and_two_replicas_are_told_that_they_survive_nothing() {
        assert!(banner("a:1").contains("survives no crash"));
        assert!(banner("a:1,b:1").contains("survives no crash"));
        assert!(banner("a:1,b:1,c:1,d:1,e:1").contains("survives 2 crashes"));
        assert!(banner("a:1,b:1,c:1,d:1,e:1,f:1,g:1").contains("survives 3 crashes"));
    }
}

//! The same seed tells the same story in every build: debug and release, on every machine.
//!
//! What is pinned is a hash of everything that happened. It changes with whatever changes what a replica
//! does, and with the simulator: after such a change, `VSR_HASHES=write` writes the file anew, and the
//! other profile must agree with it.
#![cfg(feature = "sim")]

use std::fmt::Write as _;

use vsr_consensus::sim::{Faults, Options, Store, run};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim_hashes.txt");
const SEEDS: [u64; 6] = [1, 2, 3, 5, 8, 13];

#[test]
fn debug_and_release_builds_tell_the_same_story() {
    let options = Options {
        ops: 150,
        ..Options::new(Faults::all())
    };
    let mut told = String::new();
    for seed in SEEDS {
        let outcome = run::<Store>(seed, &options);
        assert!(
            outcome.failure.is_none(),
            "seed {seed}: {:?}",
            outcome.failure
        );
        let (hash, events) = (outcome.trace_hash, outcome.summary.events);
        writeln!(told, "seed {seed:3} hash {hash:016x} events {events}").expect("memory");
    }
    if std::env::var("VSR_HASHES").is_ok_and(|value| value == "write") {
        std::fs::write(FILE, &told).expect("the file can be written");
    }
    let pinned = std::fs::read_to_string(FILE).expect("the file is there");
    assert_eq!(
        told, pinned,
        "if replicas or simulator were changed on purpose, VSR_HASHES=write writes {FILE} anew; if not, \
         this build tells another story than the one in which it was written"
    );
}

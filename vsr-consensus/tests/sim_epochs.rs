//! Epochs that end all the time: a thousand borders in one run, under everything that may go wrong.
//!
//! `VSR_SEED=17` plays another seed, `VSR_OPS=n` another number of operations.
#![cfg(feature = "sim")]

use vsr_consensus::OnOpMax;
use vsr_consensus::sim::{Faults, Options, Seeds, Store, Summary, check_with, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One seed, with epochs of three ops.
fn play(mode: OnOpMax, seed: u64) -> Summary {
    let options = Options {
        ops: number("VSR_OPS").unwrap_or(12_000),
        replicas: Some(3),
        clients: Some(16),
        op_max: Some(3),
        on_op_max: Some(mode),
        shrink: false,
        ..Options::new(Faults::all())
    };
    let outcome = run::<Store>(number("VSR_SEED").unwrap_or(seed), &options);
    if let Some(failure) = outcome.failure {
        panic!("{failure}");
    }
    outcome.summary
}

#[test]
fn a_thousand_epochs_in_one_run_with_reset() {
    let summary = play(OnOpMax::Reset, 29);
    println!("{summary}\n{}", summary.marks);
    assert!(summary.rollovers >= 1_000, "{summary}");
    assert!(summary.crashes > 10 && summary.views > 10, "{summary}");
    assert_eq!(summary.archives, 0);
}

#[test]
fn a_thousand_epochs_in_one_run_with_archive() {
    let summary = play(OnOpMax::Archive, 29);
    println!("{summary}\n{}", summary.marks);
    assert!(summary.rollovers >= 1_000, "{summary}");
    assert!(summary.archives >= summary.rollovers, "{summary}");
    for rare in [
        "epochs archived again",
        "archives that failed",
        "crashes while archiving",
    ] {
        assert!(summary.marks.of(rare) > 0, "{rare} was not reached");
    }
}

/// R10.1: every client ends up being refused and reads on.
#[test]
fn at_the_last_op_only_reads_go_on() {
    let options = Options {
        ops: 600,
        op_max: Some(150),
        on_op_max: Some(OnOpMax::Halt),
        shrink: false,
        ..Options::new(Faults::all())
    };
    let summary = check_with::<Store>(Seeds::range(0..6), &options).expect("nothing is lost");
    println!("{summary}\n{}", summary.marks);
    assert_eq!(summary.rollovers, 0);
    assert!(summary.marks.of("clients refused at the last op") > 0);
    assert!(summary.queries > 0);
}

//! The simulator's machines that are not deterministic: found by the replicas themselves (N16, R4.2).
#![cfg(feature = "sim")]

use vsr_consensus::OnOpMax;
use vsr_consensus::sim::{FaultClass, Faults, Options, Plant, Store, Summary, run};

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Messages are lost, doubled and reordered; nobody crashes but those who are found out.
fn options(plant: Plant, replicas: u8) -> Options {
    Options {
        ops: number("VSR_OPS", 1_000),
        replicas: Some(replicas),
        plant: Some(plant),
        // Epochs have tests of their own, and their end would be the end of the operations.
        op_max: Some(1 << 40),
        on_op_max: Some(OnOpMax::Reset),
        shrink: false,
        ..Options::new(
            Faults::none()
                .with(FaultClass::Duplicate)
                .with(FaultClass::Reorder)
                .with(FaultClass::Replay),
        )
    }
}

#[expect(clippy::print_stdout, reason = "the figures are half of the result")]
fn play(plant: Plant, replicas: u8, seeds: u64) -> Summary {
    let base = number("VSR_SEED_BASE", 0);
    let mut total = Summary::default();
    for seed in base..base + number("VSR_SEEDS", seeds) {
        let outcome = run::<Store>(seed, &options(plant, replicas));
        if let Some(failure) = outcome.failure {
            panic!("{plant:?}, {replicas} replicas, seed {seed}: {failure}");
        }
        total.add(&outcome.summary);
    }
    println!("{plant:?}, {replicas} replicas: {total}\n{}", total.marks);
    total
}

/// R4.2, N16: a minority stops and comes back while the others serve; nothing else is ever wrong.
#[test]
fn a_machine_that_goes_its_own_way_is_found_and_comes_back() {
    for (replicas, who) in [(3, 0), (3, 1), (5, 0), (5, 2)] {
        let summary = play(Plant::OneDiverges(who), replicas, 6);
        let found = summary.marks.of("states of their own found");
        assert_eq!(found, summary.seeds, "R{who} of {replicas}: {summary}");
        assert!(summary.recovered >= found, "and they came back: {summary}");
        let wrong = summary.marks.of("wrong replies before that");
        assert!(who == 0 || wrong == 0, "a backup answers nobody");
    }
}

/// N16: where no two machines agree everybody stops, says what it knows, and answers nobody any more.
#[test]
fn machines_that_all_go_their_own_ways_stop() {
    for replicas in [2, 3, 5] {
        let summary = play(Plant::AllDiverge, replicas, 6);
        let found = summary.marks.of("states of their own found");
        assert_eq!(found, summary.seeds * u64::from(replicas), "{summary}");
    }
}

/// Without the comparison nobody would ever know.
#[cfg(feature = "mutate")]
#[test]
fn without_the_comparison_somebody_else_must_find_it() {
    use vsr_consensus::Mutant;
    for mutant in [Mutant::NoComparison, Mutant::MinorityServes] {
        for plant in [Plant::OneDiverges(1), Plant::AllDiverge] {
            let options = Options {
                mutant: Some(mutant),
                ..options(plant, 3)
            };
            let failure = run::<Store>(3, &options).failure;
            let rule = failure.map(|failure| failure.rule);
            let expected = "a replica whose state is another is found (N16)";
            assert_eq!(
                rule.as_deref(),
                Some(expected),
                "{} of {plant:?}",
                mutant.name()
            );
        }
    }
}

//! The scrubber and its findings, as metrics.

use super::Samples;
use crate::inspect::{Surroundings, scrubbing};

/// How far the scrubber has come, what it found, and what is damaged now.
pub(super) fn damage(samples: &mut Samples, replicas: u8, around: &Surroundings<'_>) {
    let told = scrubbing(&around.integrity, replicas, around.now);
    let scrub = &told.scrub;
    let mut gauge = |name, help, value| samples.gauge(name, help, Vec::new(), value);
    gauge(
        "scrub_size_bytes",
        "Bytes that one round of the scrubber looks at",
        scrub.size_bytes,
    );
    gauge(
        "scrub_done_bytes",
        "Bytes that this round has looked at",
        scrub.looked_at_bytes,
    );
    let damage = told.damage.as_ref();
    gauge(
        "damaged",
        "1 while some of the memory is known to be damaged",
        damage.is_some().into(),
    );
    gauge(
        "damaged_blocks",
        "1 while nothing is executed because of it",
        damage.is_some_and(|damage| damage.blocks).into(),
    );
    gauge(
        "damaged_unrepairable",
        "1 while something is damaged that no replica can give: alarm",
        damage.is_some_and(|damage| damage.unrepairable).into(),
    );
    let mut real = |name, help, value| samples.real(name, help, Vec::new(), value);
    real(
        "damage_age_seconds",
        "For how long it has been damaged",
        damage.map_or(0.0, |damage| damage.seconds),
    );
    real(
        "scrub_ends_in_seconds",
        "When this round will be done",
        scrub.ends_in_seconds,
    );
    if let Some(seconds) = scrub.last_round_seconds {
        real(
            "scrub_last_round_seconds",
            "How long the last one took",
            seconds,
        );
    }
    let rounds = "Rounds of the scrubber over everything";
    samples.counter("scrub_rounds", rounds, Vec::new(), scrub.rounds);
    for total in &told.totals {
        for (outcome, count) in [
            ("found_on_use", total.found_on_use),
            ("found_by_scrubber", total.found_by_scrubber),
            ("repaired", total.repaired),
            ("unrepairable", total.unrepairable),
        ] {
            let labels = vec![
                ("what", total.what.clone()),
                ("outcome", outcome.to_owned()),
            ];
            let help = "Damaged memory: found, repaired, and what nobody could give";
            samples.counter("damage", help, labels, count);
        }
    }
}

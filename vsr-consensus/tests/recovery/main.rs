//! Replicas that lose their memory and come back: stories with real replicas, told message by message.
//!
//! Which stories show which rule of `docs/protocol.md`:
//!
//! | rule | stories |
//! | --- | --- |
//! | R6.1 | `s35_total_loss`, `a_backup_with_nothing_to_recover_comes_back` |
//! | R6.2 | `s09_twin_recovery`, `a_number_that_is_known_is_refused_and_the_next_one_taken` |
//! | R6.3 | `s04_vc_replica_answers`, `s06_who_answers_knows_the_new_life` |
//! | R6.4 | `s03_recovery_set_consistency`, `s05_replies_reused` |
//! | R6.5 | `s06_too_few_replies`, `s07_chain_amnesia`, `s08_header_only_recovery`, `s31_recover_own_view` |
//! | R6.6 | `s32_recovery_during_storm` |
//! | R6.7 | `s22_a_recovering_replica_takes_part_in_nothing` |
//! | R0.2 | `s10_zombie_adopts` |
//! | R5.3 | `votes`: dead lives in a view change |

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod beyond;
mod chaos;
mod clock;
mod elections;
mod primaries;
mod promises;
#[cfg(any(feature = "mutate", feature = "sim"))]
mod spare;
mod topology;
mod twins;
mod votes;

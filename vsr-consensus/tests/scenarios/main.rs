//! Scenarios written by hand: what is lost, what arrives twice, who dies when; and that each of them
//! fails when the rule that it is about is switched off.
//!
//! Needs the feature `mutate`. Which scenes show which rule of `docs/protocol.md`:
//!
//! | rule | scenes |
//! | --- | --- |
//! | R5.1 | `s43_deaf_backup`, `s44_chained_partition`, `a_lost_start_view_change` |
//! | R5.2 | `late_do_view_changes`, `everything_twice` |
//! | R5.3 | `a_quorum_of_votes_starts_a_view`; of dead lives: the tests of recovery |
//! | R5.4 | `s16_op_reuse_longer_log`, `s18_sv_headers_lost` |
//! | R5.5 | `s20_corrupt_committed`, `s21_fault_mark` |
//! | R5.6 | `a_view_starts_when_everything_is_held`, `s28_lagging_primary`, `s29_canonical_then_next_view` |
//! | R5.7 | `s13_duplicate_sv`, `a_divergent_suffix_goes` |
//! | R5.8 | `a_lost_start_view`, `short_silences_change_nothing` |
//! | R8.3 | `s12_vrr_state_transfer` |
//! | R10.1 | `s55_op_limit`, `the_last_op_before_a_view_change` |
//! | R10.2 | `epochs_follow_one_another`, `a_wrong_epoch_is_refused`, `a_laggard_crosses_borders` |
//! | R10.3 | `everybody_takes_a_digest_at_the_border` |
//! | R10.4 | `an_epoch_is_archived_first`, `a_new_primary_archives_again`, `what_is_not_executed_is_not_archived` |
//! | R10.5 | `waiting_for_an_archive_deposes_nobody`, `a_full_batch_at_the_border`, `a_hand_over_at_the_border` |
//! | R12.1 | `s48_read_new_primary` |

#[path = "../support/mod.rs"]
mod support;

mod stage;

mod change;
mod choice;
mod clients;
mod epochs;
mod normal;
mod partition;
mod planned;
